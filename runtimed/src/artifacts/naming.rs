//! What an artifact is called, and what is said of it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A path as text; bytes that are no UTF-8, and `%`, as `%XX`.
pub(super) fn printable(path: &Path) -> String {
    let mut out = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || c.is_control() {
                let mut utf8 = [0; 4];
                out.extend(c.encode_utf8(&mut utf8).bytes().map(|byte| format!("%{byte:02X}")));
            } else {
                out.push(c);
            }
        }
        out.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    out
}

/// A media type by name, else by whether it is text. A page is never offered as such: it would run in the reader's
/// browser under our name.
pub(super) fn content_type(path: &str, text: bool) -> &'static str {
    match path.rsplit('.').next() {
        Some("json") => "application/json",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("pdf") => "application/pdf",
        Some("gz" | "tgz") => "application/gzip",
        Some("zip") => "application/zip",
        _ if text => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Bytes that a printable path takes in JSON (RFC 8259, section 7).
pub(super) fn in_json(path: &str) -> usize {
    path.len() + path.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count()
}
