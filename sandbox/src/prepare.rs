use crate::sys::Steps;

/// A plan made ready.
#[derive(Debug)]
pub struct Prepared {
    steps: Steps,
}

impl Prepared {
    pub(crate) fn steps(&self) -> &Steps {
        &self.steps
    }
}
