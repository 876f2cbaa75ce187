//! The supervisor's own Landlock domain: signals and abstract sockets do not leave it, files are as before.
//!
//! Every process of the attempt is below it. So one `kill(-1)` of the supervisor's reaches exactly the attempt, and a
//! supervisor that was taken over could reach no neighbour.

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};

/// The first ABI that has scopes.
pub(super) const SCOPES: u8 = 6;

/// Enters the domain, for good. It sets `no_new_privs` as well.
///
/// It handles one right on files, to move them between directories, and grants it everywhere. A layer that did not speak of
/// this right would *deny* it to every domain below as soon as that one handles files: `LANDLOCK_ACCESS_FS_REFER` of
/// linux/landlock.h. The price is that nothing below this domain can mount.
pub(super) fn enter() -> Result<(), Box<dyn std::error::Error>> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new("/")?, AccessFs::Refer))?
        .restrict_self()?;
    Ok(())
}
