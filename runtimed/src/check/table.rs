//! The report for people.

use std::fmt::Write as _;

use super::Report;
use super::judge::{Level, Posture};

/// All of it, as text of at most a few screens.
pub(super) fn of(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _infallible = write(report, &mut text);
    text
}

fn write(report: &Report, out: &mut String) -> std::fmt::Result {
    if !report.configuration.is_empty() {
        writeln!(out, "configuration")?;
        let width = report.configuration.iter().map(|setting| setting.key.len()).max().unwrap_or(0);
        for setting in &report.configuration {
            writeln!(out, "  {:width$}  {:11}  {}", setting.key, setting.origin, plain(&setting.value))?;
        }
    }
    if let Some(posture) = &report.posture {
        write_posture(posture, out)?;
    }
    writeln!(out, "findings")?;
    for finding in &report.findings {
        let mark = match finding.level {
            Level::Error => "✗ error  ",
            Level::Warning => "! warning",
            Level::Note => "· note   ",
        };
        writeln!(out, "  {mark}  {}: {}", finding.id, plain(&finding.message))?;
        writeln!(out, "             → {}", finding.hint)?;
    }
    let count = |level| report.findings.iter().filter(|finding| finding.level == level).count();
    let words = |level, one: &str| match count(level) {
        1 => format!("1 {one}"),
        many => format!("{many} {one}s"),
    };
    writeln!(out, "  {}, {}", words(Level::Error, "error"), words(Level::Warning, "warning"))
}

fn write_posture(posture: &Posture, out: &mut String) -> std::fmt::Result {
    let profile = posture.profile.map_or_else(|| "none".to_owned(), |profile| format!("{profile:?}"));
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let name = posture.passwd.as_deref().unwrap_or("no entry in /etc/passwd");
    let writable: Vec<_> = posture.writable.iter().map(|path| path.display().to_string()).collect();
    let writable = if writable.is_empty() { "nothing else".to_owned() } else { writable.join(" ") };
    writeln!(out, "posture")?;
    for (key, value) in [
        ("kernel", posture.kernel.as_str()),
        ("Landlock", &posture.landlock),
        ("user namespaces", &posture.user_namespaces),
        ("fitting profile", &profile),
        ("fitting tier", &format!("{:?}", posture.tier)),
        ("uid and gid", &format!("{}:{} ({name})", posture.uid, posture.gid)),
        ("no new privileges", yes(posture.no_new_privs)),
        ("capabilities", &posture.capabilities),
        ("seccomp filters", &posture.seccomp_filters.to_string()),
        ("staged secrets", &posture.staging_medium),
        ("writable beside", &writable),
        ("service account", if posture.service_account_token { "mounted" } else { "not mounted" }),
        ("metadata service", if posture.metadata_service { "answers" } else { "does not answer" }),
    ] {
        writeln!(out, "  {key:18}  {}", plain(value))?;
    }
    for protection in &posture.protections {
        let how = protection.why.as_deref().unwrap_or(&protection.mechanism);
        writeln!(out, "  {:22}  {:11}  {how}", protection.name, protection.state)?;
    }
    Ok(())
}

/// Paths are other people's words: what would steer a terminal is shown as it is written.
fn plain(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}
