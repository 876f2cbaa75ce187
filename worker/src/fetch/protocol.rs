//! git's protocol: which commit a ref names, then the pack of that commit. See gitprotocol-v2(5); what a server that
//! only speaks the first version does differently is in [`first`].
//!
//! It is spoken here rather than by libgit2, whose transports can be replaced only through an unsafe interface, and
//! because a fetch into a fresh store needs so little of it: what is there already is told, and nothing is negotiated.

mod first;

use std::io::{self, Read, Write};

use git2::Oid;
use runtimed_api::problem::Code;

use self::first::Advertised;
use super::carrier::Carrier;
use super::packet::{DELIMITER, FLUSH, Packet, Packets, broken, put, said};
use super::reference::{Found, Reference, missing};
use super::store::{USE, git_failure};
use crate::failure::Failure;

/// Refs that a server may list for one name.
const MAX_REFS: usize = 10_000;
/// Commits at which the history may be cut.
const MAX_SHALLOW: usize = 100_000;

/// A server that has been greeted.
#[derive(Debug)]
pub(super) struct Server {
    carrier: Carrier,
    version: Version,
}

#[derive(Debug)]
enum Version {
    /// The second: refs are asked for by name.
    Second,
    /// The first, and before it: all refs come with the greeting.
    First(Advertised),
}

/// What the store has already, so that it need not come again.
#[derive(Debug, Default, Clone)]
pub(super) struct Base {
    /// Commits that are there with everything they hold, and their history up to where it is cut.
    pub(super) commits: Vec<Oid>,
    /// Commits whose parents are left out.
    pub(super) shallow: Vec<Oid>,
}

impl Server {
    /// Greets the server.
    pub(super) fn connect(mut carrier: Carrier) -> Result<Self, Failure> {
        let greeted = {
            let mut packets = Packets::new(carrier.advertisement()?);
            greeting(&mut packets)
        };
        match greeted {
            Ok(Some(version)) => {
                carrier.greeted()?;
                Ok(Self { carrier, version })
            }
            Ok(None) => {
                let message = "the server does not speak git's protocol with SHA-1 ids";
                Err(Failure::fault(Code::SourceFailed, message).lasting().hint("use a mirror that does"))
            }
            Err(error) => Err(carrier.explain(&error)),
        }
    }

    /// The object that `reference` names: a commit, or a tag that leads to one.
    pub(super) fn find(&mut self, reference: &Reference) -> Result<Found, Failure> {
        if let Reference::Commit(id) = reference {
            return Ok(Found { id: *id, name: None });
        }
        let candidates = reference.candidates();
        if let Version::First(advertised) = &self.version {
            return advertised.find(&candidates).ok_or_else(|| missing(reference));
        }
        let mut request = Vec::new();
        put(&mut request, "command=ls-refs\n");
        put(&mut request, "object-format=sha1\n");
        request.extend_from_slice(DELIMITER);
        put(&mut request, "symrefs\n");
        for candidate in &candidates {
            put(&mut request, &format!("ref-prefix {candidate}\n"));
        }
        request.extend_from_slice(FLUSH);
        let listed = {
            let mut packets = Packets::new(self.carrier.command(&request)?);
            listed(&mut packets, &candidates)
        };
        let found = listed.map_err(|error| self.carrier.explain(&error))?;
        found.into_iter().flatten().next().ok_or_else(|| missing(reference))
    }

    /// Writes the pack of `wanted`, without what `base` has, to `pack`, and says at which commits the history is cut now.
    ///
    /// The server judges whether this login may have `wanted`, whatever is there already.
    pub(super) fn fetch(
        &mut self,
        wanted: Oid,
        depth: u32,
        base: &Base,
        pack: &mut dyn Write,
    ) -> Result<Vec<Oid>, Failure> {
        let mut cut = Cut { shallow: base.shallow.clone() };
        let done = match &self.version {
            Version::First(advertised) => {
                let request = advertised.request(wanted, depth, base)?;
                let mut packets = Packets::new(self.carrier.command(&request)?);
                first::received(&mut packets, depth > 0, &mut cut, pack)
            }
            Version::Second => {
                let mut packets = Packets::new(self.carrier.command(&request(wanted, depth, base))?);
                received(&mut packets, &mut cut, pack)
            }
        };
        done.map(|()| cut.shallow).map_err(|error| {
            let words = error.to_string();
            if REFUSALS.iter().any(|known| words.contains(known)) {
                return missing(&Reference::Commit(wanted));
            }
            self.carrier.explain(&error)
        })
    }
}

/// How git's own server, and those that follow it, say that they do not give an object.
const REFUSALS: [&str; 2] = ["not our ref", "unadvertised object"];

fn request(wanted: Oid, depth: u32, base: &Base) -> Vec<u8> {
    let mut request = Vec::new();
    put(&mut request, "command=fetch\n");
    put(&mut request, "object-format=sha1\n");
    request.extend_from_slice(DELIMITER);
    put(&mut request, "no-progress\n");
    put(&mut request, "ofs-delta\n");
    if !base.commits.is_empty() {
        // Without it the server counts only what the commits in common lead to, and a cut history leads nowhere.
        put(&mut request, "thin-pack\n");
    }
    for id in &base.shallow {
        put(&mut request, &format!("shallow {id}\n"));
    }
    if depth > 0 {
        put(&mut request, &format!("deepen {depth}\n"));
    }
    put(&mut request, &format!("want {wanted}\n"));
    for id in &base.commits {
        put(&mut request, &format!("have {id}\n"));
    }
    put(&mut request, "done\n");
    request.extend_from_slice(FLUSH);
    request
}

/// Where the history is cut, as the server tells it.
#[derive(Debug)]
struct Cut {
    shallow: Vec<Oid>,
}

impl Cut {
    fn told(&mut self, line: &str) -> io::Result<()> {
        let (word, id) = line.split_once(' ').unwrap_or((line, ""));
        let id = whole_id(id).ok_or_else(|| broken("a boundary that is no commit"))?;
        match word {
            "shallow" if self.shallow.len() >= MAX_SHALLOW => {
                return Err(broken("a history cut at too many places"));
            }
            "shallow" if !self.shallow.contains(&id) => self.shallow.push(id),
            "shallow" => {}
            "unshallow" => self.shallow.retain(|known| *known != id),
            _ => return Err(broken("a boundary of no known kind")),
        }
        Ok(())
    }
}

/// Reads the greeting, which over https begins with a packet that names the service. `None` is a server that cannot be
/// spoken with.
fn greeting<R: Read>(packets: &mut Packets<R>) -> io::Result<Option<Version>> {
    let mut line = packets.next()?.bytes().map(<[u8]>::to_vec);
    if line.as_deref().is_some_and(|line| line.starts_with(b"# service=")) {
        if packets.next()? != Packet::Flush {
            return Ok(None);
        }
        line = packets.next()?.bytes().map(<[u8]>::to_vec);
    }
    let Some(mut line) = line else { return Ok(None) };
    if line.trim_ascii_end() == b"version 2" {
        while let Some(line) = packets.next()?.line()? {
            if line.strip_prefix("object-format=").is_some_and(|format| format != "sha1") {
                return Ok(None);
            }
        }
        return Ok(Some(Version::Second));
    }
    if line.trim_ascii_end() == b"version 1" {
        line = packets.next()?.bytes().map(<[u8]>::to_vec).unwrap_or_default();
    }
    Ok(Advertised::read(&line, packets)?.map(Version::First))
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
fn received<R: Read>(packets: &mut Packets<R>, cut: &mut Cut, pack: &mut dyn Write) -> io::Result<()> {
    loop {
        match packets.next()?.line()? {
            Some("packfile") => break,
            Some("shallow-info") => {
                while let Some(line) = packets.next()?.line()? {
                    cut.told(line)?;
                }
            }
            _ => return Err(broken("a section that was not asked for")),
        }
    }
    while streamed(&packets.next()?, pack)? {}
    Ok(())
}

/// Takes one packet of the streams that the pack comes in, with progress and errors beside it; false at their end.
fn streamed(packet: &Packet<'_>, pack: &mut dyn Write) -> io::Result<bool> {
    match packet {
        Packet::Data([1, data @ ..]) => pack.write_all(data)?,
        Packet::Data([2, ..]) => {}
        Packet::Data([3, message @ ..]) => return Err(said(message)),
        Packet::Data(_) => return Err(broken("a packet of no stream")),
        Packet::Flush | Packet::Delimiter => return Ok(false),
    }
    Ok(true)
}

/// A whole SHA-1 id, nothing abbreviated.
pub(super) fn whole_id(text: &str) -> Option<Oid> {
    if text.len() != 40 {
        return None;
    }
    Oid::from_str(text).ok()
}

/// An answer that broke off, that the server ended with an error, or that makes no sense.
pub(super) fn unusable(error: &io::Error) -> Failure {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<git2::Error>()) {
        return git_failure(USE, error);
    }
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
    fn the_forms_of_the_greeting_are_understood_and_others_are_not() {
        let greeted = |lines: &[&str]| greeting(&mut Packets::new(stream(lines).as_slice()));
        let second = |lines: &[&str]| matches!(greeted(lines).unwrap(), Some(Version::Second));
        assert!(second(&["version 2\n", "ls-refs\n", "FLUSH"]));
        assert!(second(&["# service=git-upload-pack\n", "FLUSH", "version 2\n", "FLUSH"]));
        assert!(greeted(&["version 2\n", "object-format=sha256\n", "FLUSH"]).unwrap().is_none());
        let old = format!("{ID} HEAD\0side-band-64k shallow\n");
        let first = greeted(&["# service=git-upload-pack\n", "FLUSH", &old, "FLUSH"]).unwrap();
        assert!(matches!(first, Some(Version::First(_))));
        assert!(matches!(greeted(&["version 1\n", &old, "FLUSH"]).unwrap(), Some(Version::First(_))));
        assert!(greeted(&["hello\n", "FLUSH"]).unwrap().is_none());
        assert!(greeted(&["version 2\n"]).is_err());
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
        let take = |bytes: &[u8]| {
            let (mut pack, mut cut) = (Vec::new(), Cut { shallow: Vec::new() });
            received(&mut Packets::new(bytes), &mut cut, &mut pack).map(|()| (pack, cut.shallow.len()))
        };
        assert_eq!(take(&bytes).unwrap(), (b"PACK".to_vec(), 1));
        let bytes = stream(&["packfile\n", "\u{1}PA", "\u{3}out of memory"]);
        let error = take(&bytes).unwrap_err();
        assert!(error.to_string().contains("out of memory"), "{error}");
        assert!(take(b"000dpackfile\n").is_err());
    }
}
