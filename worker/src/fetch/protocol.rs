//! git's protocol, version 2: which commit a ref names, then the pack of that commit. See gitprotocol-v2(5).
//!
//! It is spoken here rather than by libgit2, whose http transport can be replaced only through an unsafe interface, and
//! because a first fetch needs so little of it: nothing is negotiated, for there is nothing yet.

use std::io::{self, Read, Write};

use git2::Oid;
use runtimed_api::problem::Code;

use super::http::Http;
use super::packet::{DELIMITER, FLUSH, Packet, Packets, broken, put, said};
use super::reference::{Found, Reference, missing};
use crate::failure::Failure;

/// Refs that a server may list for one name.
const MAX_REFS: usize = 10_000;
/// Commits at which the history may be cut.
const MAX_SHALLOW: usize = 100_000;

/// A server that answers in version 2.
#[derive(Debug)]
pub(super) struct Server {
    http: Http,
}

impl Server {
    /// Greets the server.
    pub(super) fn connect(mut http: Http) -> Result<Self, Failure> {
        let mut packets = Packets::new(http.advertisement()?);
        let second = speaks_second_version(&mut packets).map_err(|error| unusable(&error))?;
        drop(packets);
        if !second {
            let message = "the server does not speak version 2 of git's protocol with SHA-1 ids";
            return Err(Failure::fault(Code::SourceFailed, message)
                .lasting()
                .hint("ask its operator for protocol.version 2, or use a mirror"));
        }
        Ok(Self { http })
    }

    /// The object that `reference` names: a commit, or a tag that leads to one.
    pub(super) fn find(&self, reference: &Reference) -> Result<Found, Failure> {
        if let Reference::Commit(id) = reference {
            return Ok(Found { id: *id, name: None });
        }
        let candidates = reference.candidates();
        let mut request = Vec::new();
        put(&mut request, "command=ls-refs\n");
        put(&mut request, "object-format=sha1\n");
        request.extend_from_slice(DELIMITER);
        put(&mut request, "symrefs\n");
        for candidate in &candidates {
            put(&mut request, &format!("ref-prefix {candidate}\n"));
        }
        request.extend_from_slice(FLUSH);
        let mut packets = Packets::new(self.http.command(&request)?);
        let found = listed(&mut packets, &candidates).map_err(|error| unusable(&error))?;
        found.into_iter().flatten().next().ok_or_else(|| missing(reference))
    }

    /// Writes the pack of `wanted` to `pack`, and says at which commits its history was cut.
    pub(super) fn fetch(&self, wanted: Oid, depth: u32, pack: &mut dyn Write) -> Result<Vec<Oid>, Failure> {
        let mut request = Vec::new();
        put(&mut request, "command=fetch\n");
        put(&mut request, "object-format=sha1\n");
        request.extend_from_slice(DELIMITER);
        put(&mut request, "no-progress\n");
        put(&mut request, "ofs-delta\n");
        if depth > 0 {
            put(&mut request, &format!("deepen {depth}\n"));
        }
        put(&mut request, &format!("want {wanted}\n"));
        put(&mut request, "done\n");
        request.extend_from_slice(FLUSH);
        let mut packets = Packets::new(self.http.command(&request)?);
        received(&mut packets, pack).map_err(|error| {
            let words = error.to_string();
            if REFUSALS.iter().any(|known| words.contains(known)) {
                return missing(&Reference::Commit(wanted));
            }
            unusable(&error)
        })
    }
}

/// How git's own server, and those that follow it, say that they do not give an object.
const REFUSALS: [&str; 2] = ["not our ref", "unadvertised object"];

/// Reads the advertisement, which may begin with a packet that names the service, as in the first version.
fn speaks_second_version<R: Read>(packets: &mut Packets<R>) -> io::Result<bool> {
    let service = match packets.next()?.line()? {
        Some("version 2") => false,
        Some(line) if line.starts_with("# service=") => true,
        _ => return Ok(false),
    };
    if service && (packets.next()? != Packet::Flush || packets.next()?.line()? != Some("version 2")) {
        return Ok(false);
    }
    while let Some(line) = packets.next()?.line()? {
        if line.strip_prefix("object-format=").is_some_and(|format| format != "sha1") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Those `candidates` that are listed, in the candidates' order.
fn listed<R: Read>(packets: &mut Packets<R>, candidates: &[String]) -> io::Result<Vec<Option<Found>>> {
    let mut found = vec![None; candidates.len()];
    for _ in 0..MAX_REFS {
        let packet = packets.next()?;
        let Some(line) = packet.line()? else { return Ok(found) };
        let mut words = line.split(' ');
        let (Some(id), Some(name)) = (words.next(), words.next()) else {
            return Err(broken("a ref without a name"));
        };
        // A branch without a commit is listed as unborn, and is not there for us.
        let (Some(place), Some(id)) = (candidates.iter().position(|it| it == name), whole_id(id)) else {
            continue;
        };
        let leads_to = words.find_map(|word| word.strip_prefix("symref-target:"));
        if let Some(slot) = found.get_mut(place) {
            *slot = Some(Found { id, name: Some(leads_to.unwrap_or(name).to_owned()) });
        }
    }
    Err(broken("more refs than one name can have"))
}

/// Reads the sections of the answer up to the end of the pack.
fn received<R: Read>(packets: &mut Packets<R>, pack: &mut dyn Write) -> io::Result<Vec<Oid>> {
    let mut shallow = Vec::new();
    loop {
        match packets.next()?.line()? {
            Some("packfile") => break,
            Some("shallow-info") => {
                while let Some(line) = packets.next()?.line()? {
                    let id = line.strip_prefix("shallow ").and_then(whole_id);
                    shallow.push(id.ok_or_else(|| broken("a boundary that is no commit"))?);
                    if shallow.len() > MAX_SHALLOW {
                        return Err(broken("a history cut at too many places"));
                    }
                }
            }
            _ => return Err(broken("a section that was not asked for")),
        }
    }
    loop {
        match packets.next()? {
            Packet::Data([1, data @ ..]) => pack.write_all(data)?,
            Packet::Data([2, ..]) => {}
            Packet::Data([3, message @ ..]) => return Err(said(message)),
            Packet::Data(_) => return Err(broken("a packet of no stream")),
            Packet::Flush | Packet::Delimiter => return Ok(shallow),
        }
    }
}

/// A whole SHA-1 id, nothing abbreviated.
pub(super) fn whole_id(text: &str) -> Option<Oid> {
    if text.len() != 40 {
        return None;
    }
    Oid::from_str(text).ok()
}

/// An answer that broke off, that the server ended with an error, or that makes no sense.
fn unusable(error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the answer breaks off".to_owned(),
        _ => error.to_string(),
    };
    Failure::fault(Code::SourceFailed, format!("the source could not be fetched: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(lines: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in lines {
            match *line {
                "FLUSH" => bytes.extend_from_slice(FLUSH),
                "DELIM" => bytes.extend_from_slice(DELIMITER),
                line => put(&mut bytes, line),
            }
        }
        bytes
    }

    const ID: &str = "0123456789012345678901234567890123456789";

    #[test]
    fn both_forms_of_the_greeting_are_understood_and_others_are_not() {
        let speaks = |lines: &[&str]| speaks_second_version(&mut Packets::new(stream(lines).as_slice()));
        assert!(speaks(&["version 2\n", "ls-refs\n", "FLUSH"]).unwrap());
        assert!(speaks(&["# service=git-upload-pack\n", "FLUSH", "version 2\n", "FLUSH"]).unwrap());
        assert!(!speaks(&["version 2\n", "object-format=sha256\n", "FLUSH"]).unwrap());
        let old = format!("{ID} HEAD\0multi_ack\n");
        assert!(!speaks(&["# service=git-upload-pack\n", "FLUSH", &old, "FLUSH"]).unwrap());
        assert!(speaks(&["version 2\n"]).is_err());
    }

    #[test]
    fn only_the_candidates_are_taken_from_a_listing() {
        let candidates = ["refs/heads/a".to_owned(), "refs/tags/a".to_owned()];
        let lines = [format!("{ID} refs/heads/ab\n"), format!("{ID} refs/tags/a peeled:{ID}\n")];
        let bytes = stream(&[&lines[0], &lines[1], "unborn refs/heads/a\n", "FLUSH"]);
        let found = listed(&mut Packets::new(bytes.as_slice()), &candidates).unwrap();
        let tag = Found { id: Oid::from_str(ID).unwrap(), name: Some("refs/tags/a".to_owned()) };
        assert_eq!(found, [None, Some(tag)]);
        let head = format!("{ID} HEAD symref-target:refs/heads/main\n");
        let bytes = stream(&[&head, "FLUSH"]);
        let found = listed(&mut Packets::new(bytes.as_slice()), &["HEAD".to_owned()]).unwrap();
        assert_eq!(found[0].as_ref().unwrap().name.as_deref(), Some("refs/heads/main"));
    }

    #[test]
    fn a_pack_is_taken_from_its_stream_alone() {
        let shallow = format!("shallow {ID}\n");
        let bytes = stream(&[
            "shallow-info\n",
            &shallow,
            "DELIM",
            "packfile\n",
            "\u{1}PA",
            "\u{2}noise",
            "\u{1}CK",
            "FLUSH",
        ]);
        let mut pack = Vec::new();
        let cut = received(&mut Packets::new(bytes.as_slice()), &mut pack).unwrap();
        assert_eq!((pack.as_slice(), cut.len()), (&b"PACK"[..], 1));
        let bytes = stream(&["packfile\n", "\u{1}PA", "\u{3}out of memory"]);
        let error = received(&mut Packets::new(bytes.as_slice()), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("out of memory"), "{error}");
        assert!(received(&mut Packets::new(&b"000dpackfile\n"[..]), &mut Vec::new()).is_err());
    }
}
