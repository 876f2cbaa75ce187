//! What the patch library refuses, in the words of the wire.

use runtimed_api::link::PriorPatch;
use runtimed_api::problem::Code;
use runtimed_api::rule::{self, Rule};
use runtimed_patch as patch;

use super::subject;
use crate::failure::{Failure, storage};
use crate::fetch::store::git_failure;

/// A refused patch, named as the person who asked for it named it.
pub(super) fn refused(refusal: &patch::Refusal, labels: &[PriorPatch]) -> Failure {
    let whole = "prior patches".to_owned();
    let subject = labels.get(refusal.patch).map_or(whole, subject);
    let message = match &refusal.file {
        Some(file) => format!("{file}: {}", refusal.message),
        None => refusal.message.clone(),
    };
    Failure::Refused(vec![rule::Refusal::new(wire_rule(refusal.rule), subject, message)])
}

/// The library names its rules as the wire does.
fn wire_rule(rule: patch::Rule) -> Rule {
    Rule::find(rule.id()).unwrap_or(Rule::PATCH_MALFORMED)
}

/// A tree that was not written out. What a patch may do was judged before, so a refusal here is about the source.
pub(super) fn checkout_failure(error: patch::CheckoutError) -> Failure {
    match error {
        patch::CheckoutError::Refused(refusal) => {
            let place = refusal.file.as_ref().map_or_else(String::new, |file| format!("{file}: "));
            Failure::refused(Rule::SOURCE_UNSUPPORTED, "spec.source", format!("{place}{}", refusal.message))
        }
        patch::CheckoutError::Io { path, source } => storage(&format!("write {path}"), &source),
        patch::CheckoutError::Store(error) if error.class() == git2::ErrorClass::Odb => {
            let message = format!("the source is not complete: {}", error.message());
            Failure::fault(Code::SourceFailed, message)
        }
        patch::CheckoutError::Store(error) => git_failure("write out the workspace", &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_of_the_library_is_one_of_the_wire() {
        for rule in patch::Rule::ALL {
            assert_eq!(wire_rule(*rule).as_str(), rule.id());
        }
    }
}
