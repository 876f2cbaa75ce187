//! Finds requests in the bytes of a connection: no more HTTP than our own client speaks.

/// Longer ones are not looked at.
const LONGEST: usize = 256 * 1024;

/// Reads one direction of a connection.
#[derive(Debug, Default)]
pub struct Recorder {
    head: Vec<u8>,
    /// Bytes of a body that nobody wants, still to come.
    skip: usize,
    /// What came is not understood: nothing more is recorded.
    lost: bool,
}

/// A request that a daemon sent about its Session: reports and renewals.
#[derive(Debug, Clone)]
pub struct Request {
    bytes: Vec<u8>,
    path: String,
}

impl Request {
    /// The Session that it names.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        self.path.split('/').nth(3)
    }

    /// The same, in the name of another Session.
    #[must_use]
    pub fn under(&self, session: &str) -> Vec<u8> {
        let old = self.session().unwrap_or_default();
        let path = self.path.replace(old, session);
        let rest = &self.bytes[self.bytes.iter().position(|byte| *byte == b'\r').unwrap_or(0)..];
        [format!("POST {path} HTTP/1.1").as_bytes(), rest].concat()
    }
}

impl Recorder {
    /// Takes the next bytes, and calls `found` with each request that is whole.
    pub fn take(&mut self, mut bytes: &[u8], mut found: impl FnMut(Request)) {
        while !bytes.is_empty() && !self.lost {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            self.head.extend_from_slice(bytes);
            bytes = &[];
            while let Some((head, length)) = self.whole_head() {
                let whole = head + length;
                let path = path(&self.head);
                let wanted = path.ends_with("/reports") || path.ends_with("/renew");
                if wanted && whole <= LONGEST {
                    if self.head.len() < whole {
                        break;
                    }
                    found(Request { bytes: self.head[..whole].to_vec(), path });
                }
                let taken = whole.min(self.head.len());
                self.skip = whole - taken;
                self.head.drain(..taken);
            }
        }
    }

    /// The lengths of the first head and of its body.
    fn whole_head(&mut self) -> Option<(usize, usize)> {
        let end = self.head.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&self.head[..end]).to_ascii_lowercase();
        if text.contains("\r\ntransfer-encoding:") {
            self.lost = true;
            return None;
        }
        let length = text.split("\r\n").find_map(|line| line.strip_prefix("content-length:"));
        Some((end, length.and_then(|length| length.trim().parse().ok()).unwrap_or(0)))
    }
}

fn path(head: &[u8]) -> String {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    String::from_utf8_lossy(line).split(' ').nth(1).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_found_however_they_are_cut() {
        let stream = b"POST /v1/sessions/a/lease HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}POST /v1/sessions/a/reports HTTP/1.1\r\ncontent-length: 4\r\n\r\nbodyGET /x HTTP/1.1\r\n\r\n";
        for cut in 0..stream.len() {
            let mut recorder = Recorder::default();
            let mut found = Vec::new();
            for piece in [&stream[..cut], &stream[cut..]] {
                recorder.take(piece, |request| found.push(request));
            }
            let [request] = found.as_slice() else { panic!("{found:?} at {cut}") };
            assert_eq!(request.session(), Some("a"));
            let expected = b"POST /v1/sessions/b/reports HTTP/1.1\r\ncontent-length: 4\r\n\r\nbody";
            assert_eq!(request.under("b"), expected);
        }
    }
}
