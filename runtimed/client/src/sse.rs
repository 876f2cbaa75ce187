//! Server-sent events, as far as our servers use them: a bounded parser of a byte stream.
//!
//! The format is that of the HTML standard, section 9.2.6: fields a line, an empty line ends an event, a colon starts a
//! comment, lines end with LF, CRLF or CR. An event without data is dropped, as the standard says.

use std::collections::VecDeque;

/// The largest event, in bytes of its lines: a log record of 64 KiB whose every byte is escaped, with room to spare.
pub const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its kind; `message` where the stream names none.
    pub name: String,
    /// Its id, if this event set one.
    pub id: Option<String>,
    /// Its data; several lines are joined by LF.
    pub data: String,
}

/// An event that is larger than [`MAX_EVENT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {MAX_EVENT_BYTES} bytes")]
pub struct TooLong;

/// Reads events out of pieces of a stream, wherever it was cut.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    name: Vec<u8>,
    id: Option<Vec<u8>>,
    data: Option<Vec<u8>>,
    /// Bytes of the event's lines so far.
    size: usize,
    /// The last byte was a CR that ended a line: a LF right after it belongs to it.
    after_cr: bool,
    /// The first line was read: a byte order mark can no longer come.
    started: bool,
}

impl Parser {
    /// Takes the next piece and appends the events that it completes.
    ///
    /// # Errors
    /// An event exceeds its bound; nothing after it can be read.
    pub fn push(&mut self, mut piece: &[u8], events: &mut VecDeque<Event>) -> Result<(), TooLong> {
        if self.after_cr && !piece.is_empty() {
            self.after_cr = false;
            piece = piece.strip_prefix(b"\n").unwrap_or(piece);
        }
        while let Some(end) = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.take(&piece[..end])?;
            let rest = &piece[end + 1..];
            if piece[end] == b'\r' {
                self.after_cr = rest.is_empty();
                piece = rest.strip_prefix(b"\n").unwrap_or(rest);
            } else {
                piece = rest;
            }
            self.end_line(events);
        }
        self.take(piece)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.size += bytes.len();
        if self.size > MAX_EVENT_BYTES {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, events: &mut VecDeque<Event>) {
        let mut line = std::mem::take(&mut self.line);
        if !self.started {
            self.started = true;
            if line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
        }
        if line.is_empty() {
            self.size = 0;
            let (name, id) = (std::mem::take(&mut self.name), self.id.take());
            if let Some(data) = self.data.take() {
                let name = if name.is_empty() { b"message".to_vec() } else { name };
                events.push_back(Event { name: text(name), id: id.map(text), data: text(data) });
            }
        } else {
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
            let value = line.get(colon + 1..).unwrap_or_default();
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &line[..colon] {
                b"event" => self.name = value.to_vec(),
                b"id" if !value.contains(&0) => self.id = Some(value.to_vec()),
                b"data" => match &mut self.data {
                    Some(data) => {
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                    None => self.data = Some(value.to_vec()),
                },
                // Comments have an empty name; `retry` and unknown fields mean nothing to us.
                _ => {}
            }
        }
        // The buffer is used again: a line is as long as a log record.
        line.clear();
        self.line = line;
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
        let (mut parser, mut events) = (Parser::default(), VecDeque::new());
        for piece in pieces {
            parser.push(piece, &mut events).expect("within bounds");
        }
        events.into()
    }

    #[test]
    fn fields_comments_and_line_ends() {
        let stream = b"\xef\xbb\xbf: hello\r\nevent: stdout\rid: 7\ndata: a\ndata:b\n\n\ndata\n\nid:8\n\n";
        let event = |name: &str, id: Option<&str>, data: &str| Event {
            name: name.to_owned(),
            id: id.map(str::to_owned),
            data: data.to_owned(),
        };
        assert_eq!(parse([&stream[..]]), [event("stdout", Some("7"), "a\nb"), event("message", None, "")]);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let (mut parser, mut events) = (Parser::default(), VecDeque::new());
        let piece = vec![b'x'; 64 * 1024];
        let refused = (0..32).find_map(|_| parser.push(&piece, &mut events).err());
        assert_eq!(refused, Some(TooLong));
        // Many short lines are no way around it.
        let mut parser = Parser::default();
        let piece = b"data: xxxxxxxx\n".repeat(4096);
        let refused = (0..32).find_map(|_| parser.push(&piece, &mut events).err());
        assert_eq!(refused, Some(TooLong));
    }

    proptest! {
        #[test]
        fn where_the_stream_is_cut_changes_nothing(
            lines in prop::collection::vec("(data|event|id|retry|)(:| |x){0,2}[a-z\r\n]{0,6}", 0..24),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let stream = lines.join("\n").into_bytes();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]);
            prop_assert_eq!(parse(pieces), parse([&stream[..]]));
        }

        #[test]
        fn any_bytes_are_read(stream: Vec<u8>) {
            let (mut parser, mut events) = (Parser::default(), VecDeque::new());
            prop_assert!(parser.push(&stream, &mut events).is_ok());
        }
    }
}
