//! Watching files: inotify needs no right to list a directory in order to tell the names of what is made in it.

use super::{Rule, always, only_x86};

const FAN_INIT: Rule = always("fanotify_init", 300, 262, "reports what happens to files, like inotify");
const FAN_MARK: Rule = always("fanotify_mark", 301, 263, "extends a group that was received");

pub(super) const RULES: &[Rule] = &[
    only_x86("inotify_init", 253, "tells the names of neighbours' files as they come and go"),
    always("inotify_init1", 294, 26, "tells the names of neighbours' files as they come and go"),
    FAN_INIT,
    FAN_MARK,
];

/// What remains refused when the policy allows watching.
pub(super) const FANOTIFY: &[Rule] = &[FAN_INIT, FAN_MARK];
