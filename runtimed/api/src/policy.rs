//! Whether a Run may be: judged by the controller at submission and by the daemon before any side effect, with this
//! one code, each against its own ceiling.

mod shape;
mod source;

use crate::rule::{Refusal, Rule};
use crate::run::Run;
use crate::run::limits::Limits;
use crate::run::network::{Network, NetworkMode};
use crate::run::spec::RunSpec;
use crate::runtime::{Ceiling, Defaults};
pub use shape::glob;

/// What a Run gets: what it asked for, with the defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// What it may reach.
    pub network: Network,
    /// How much it may use.
    pub limits: Limits,
}

/// Judges a submission's form: what must hold whatever the Runtime.
///
/// # Errors
/// Every broken rule.
pub fn judge_shape(run: &Run) -> Result<(), Vec<Refusal>> {
    let mut refusals = shape::metadata(&run.metadata);
    if run.status.is_some() {
        refusals.push(
            Refusal::new(Rule::SPEC_STATUS, "status", "a submission cannot carry a status")
                .hint("leave `status` out: the controller writes it"),
        );
    }
    refusals.extend(shape::spec(&run.spec));
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

/// Judges a spec against a ceiling, and fills in the defaults. `own_ports` are the judge's own, which no Run may
/// name: a Run shares the pod's network with the daemon.
///
/// # Errors
/// Every broken rule.
pub fn judge(
    spec: &RunSpec,
    defaults: &Defaults,
    ceiling: &Ceiling,
    own_ports: &[u16],
) -> Result<Granted, Vec<Refusal>> {
    let mut refusals = source::judge(spec, ceiling);
    let network = spec.network.clone().unwrap_or_else(|| defaults.network.clone());
    network_refusals(&network, ceiling, own_ports, &mut refusals);
    let limits = spec.limits.or(&defaults.limits).or(&ceiling.limits).or(&Limits::BUILT_IN);
    limit_refusals(&limits, &ceiling.limits, &mut refusals);
    if spec.watch && !ceiling.watch {
        refusals.push(
            Refusal::new(Rule::WATCH, "spec.watch", "this Runtime does not allow inotify")
                .hint("leave `watch` out, or ask for a Runtime whose ceiling has `watch: true`"),
        );
    }
    if refusals.is_empty() { Ok(Granted { network, limits }) } else { Err(refusals) }
}

fn network_refusals(network: &Network, ceiling: &Ceiling, own_ports: &[u16], out: &mut Vec<Refusal>) {
    if !network.hosts.is_empty() {
        out.push(
            Refusal::new(Rule::NETWORK_HOSTS, "spec.network.hosts", "limiting by host is not possible yet")
                .hint("list ports instead"),
        );
    }
    if network.mode > ceiling.network {
        out.push(
            Refusal::new(
                Rule::NETWORK_MODE,
                "spec.network.mode",
                format!("{:?} is more than this Runtime's {:?}", network.mode, ceiling.network),
            )
            .hint("ask for less, or for another Runtime"),
        );
    }
    let named = !network.ports.is_empty() || !network.listen.is_empty() || network.dns.is_some();
    if named && network.mode != NetworkMode::Ports {
        out.push(Refusal::new(
            Rule::NETWORK_SHAPE,
            "spec.network",
            format!("`ports`, `listen` and `dns` mean nothing with mode {:?}", network.mode),
        ));
    }
    for (field, ports) in [("ports", &network.ports), ("listen", &network.listen)] {
        let subject = format!("spec.network.{field}");
        if ports.len() > 64 {
            out.push(Refusal::new(Rule::SPEC_TOO_MANY, &subject, "more than 64 ports"));
        }
        for port in ports {
            if *port == 0 {
                out.push(Refusal::new(Rule::NETWORK_PORT, &subject, "port 0 is not allowed"));
            } else if own_ports.contains(port) {
                out.push(Refusal::new(
                    Rule::NETWORK_PORT,
                    &subject,
                    format!("port {port} is the daemon's own"),
                ));
            }
        }
    }
    if let Some(allowed) = &ceiling.ports {
        for port in network.ports.iter().filter(|port| !allowed.contains(port)) {
            out.push(
                Refusal::new(
                    Rule::NETWORK_PORT,
                    "spec.network.ports",
                    format!("this Runtime does not allow port {port}"),
                )
                .hint(format!("it allows {allowed:?}")),
            );
        }
    }
}

/// Compares each limit that a Run would get with its ceiling.
fn limit_refusals(limits: &Limits, ceiling: &Limits, out: &mut Vec<Refusal>) {
    fn one<T: PartialOrd + std::fmt::Display>(
        name: &str,
        got: Option<T>,
        most: Option<T>,
        zero: &T,
        out: &mut Vec<Refusal>,
    ) {
        let subject = || format!("spec.limits.{name}");
        let Some(got) = got else { return };
        if got == *zero {
            out.push(Refusal::new(Rule::LIMIT_ZERO, subject(), "a limit of nothing lets nothing run"));
        }
        if let Some(most) = most.filter(|most| got > *most) {
            out.push(
                Refusal::new(
                    Rule::LIMIT_CEILING,
                    subject(),
                    format!("{got} is more than this Runtime's {most}"),
                )
                .hint(format!("ask for at most {most}")),
            );
        }
    }
    use crate::duration::Span;
    use crate::quantity::Bytes;
    let none = Span::from_millis(0);
    one("timeout", limits.timeout, ceiling.timeout, &none, out);
    one("cpu", limits.cpu, ceiling.cpu, &none, out);
    one("queue", limits.queue, ceiling.queue, &none, out);
    one("memory", limits.memory, ceiling.memory, &Bytes(0), out);
    one("fileSize", limits.file_size, ceiling.file_size, &Bytes(0), out);
    one("disk", limits.disk, ceiling.disk, &Bytes(0), out);
    one("log", limits.log, ceiling.log, &Bytes(0), out);
    one("processes", limits.processes, ceiling.processes, &0, out);
    one("openFiles", limits.open_files, ceiling.open_files, &0, out);
    // No grace is a choice; an endless one would hold a slot.
    let longest = ceiling.grace.or(Some(Span::from_secs(600)));
    one("grace", limits.grace.filter(|grace| *grace != none), longest, &none, out);
}

#[cfg(test)]
mod tests;
