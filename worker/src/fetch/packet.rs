//! git's packet lines: four hexadecimal digits of length, then the data. See gitprotocol-common(5).

use std::io::{self, Read};

/// One packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// Data, at most 65,516 bytes.
    Data(&'a [u8]),
    /// The end of a message.
    Flush,
    /// The end of a section.
    Delimiter,
}

impl<'a> Packet<'a> {
    /// The data, if it is any.
    pub(super) fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Packet::Data(data) => Some(data),
            Packet::Flush | Packet::Delimiter => None,
        }
    }

    /// The data as a line of text, without its newline.
    pub(super) fn line(&self) -> io::Result<Option<&str>> {
        match self {
            Packet::Data(data) => {
                let text = std::str::from_utf8(data).map_err(|_| broken("a line that is no text"))?;
                Ok(Some(text.strip_suffix('\n').unwrap_or(text)))
            }
            Packet::Flush | Packet::Delimiter => Ok(None),
        }
    }
}

/// Reads packets from a stream that the remote controls.
#[derive(Debug)]
pub(super) struct Packets<R> {
    stream: R,
    data: Vec<u8>,
}

/// The longest packet, with its length: `LARGE_PACKET_MAX` of git.
const LONGEST: usize = 65_520;

impl<R: Read> Packets<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, data: Vec::new() }
    }

    /// The next packet. A remote that reports an error does so in one, which becomes the error here.
    pub(super) fn next(&mut self) -> io::Result<Packet<'_>> {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix)?;
        let digits = std::str::from_utf8(&prefix).ok().filter(|digits| !digits.starts_with('+'));
        let length = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok());
        match length.ok_or_else(|| broken("a packet without a length"))? {
            0 => Ok(Packet::Flush),
            1 => Ok(Packet::Delimiter),
            length @ 4..=LONGEST => {
                self.data.resize(length - 4, 0);
                self.stream.read_exact(&mut self.data)?;
                if let Some(message) = self.data.strip_prefix(b"ERR ") {
                    return Err(said(message));
                }
                Ok(Packet::Data(&self.data))
            }
            _ => Err(broken("a packet of an impossible length")),
        }
    }
}

/// The remote's own words about why it does not serve.
pub(super) fn said(message: &[u8]) -> io::Error {
    let text: String = String::from_utf8_lossy(message).trim_end().chars().take(300).collect();
    io::Error::other(format!("the server says: {text}"))
}

/// What the remote sent is not what the protocol has here.
pub(super) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server sent {what}"))
}

/// Appends a packet with `data` to a request. `data` is ours, and short.
pub(super) fn put(request: &mut Vec<u8>, data: &str) {
    request.extend_from_slice(format!("{:04x}", data.len() + 4).as_bytes());
    request.extend_from_slice(data.as_bytes());
}

/// The packet that ends a request.
pub(super) const FLUSH: &[u8] = b"0000";
/// The packet that ends a section of a request.
pub(super) const DELIMITER: &[u8] = b"0001";

#[cfg(test)]
mod tests {
    use super::*;

    fn first(bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match Packets::new(bytes).next()? {
            Packet::Data(data) => Ok(Some(data.to_vec())),
            Packet::Flush | Packet::Delimiter => Ok(None),
        }
    }

    #[test]
    fn what_is_put_is_read() {
        let mut request = Vec::new();
        put(&mut request, "want x\n");
        request.extend_from_slice(FLUSH);
        let mut packets = Packets::new(request.as_slice());
        assert_eq!(packets.next().unwrap().line().unwrap(), Some("want x"));
        assert_eq!(packets.next().unwrap(), Packet::Flush);
    }

    #[test]
    fn impossible_lengths_and_errors_are_errors() {
        for bad in [&b"0002"[..], b"0003", b"+004", b"fff1", b"zzzz", b"00", b"0009ab"] {
            assert!(first(bad).is_err(), "{bad:?}");
        }
        let error = first(b"0012ERR no access\n").unwrap_err();
        assert!(error.to_string().contains("the server says: no access"), "{error}");
        assert_eq!(first(b"0004").unwrap(), Some(Vec::new()));
    }
}
