//! Asking the controller again: it may be restarted at any moment, and that is no reason for a Run to fail.

use std::time::Duration;

use futures_util::future::BoxFuture;
use runtimed_client::ClientError;
use tokio::time::{Instant, sleep};

use crate::session::pause;

/// How long a controller may be away while an attempt needs something of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is an answer, or an error that the same request would bring once more, for [`PATIENCE`].
pub(super) async fn again<'a, T>(
    ask: impl Fn() -> BoxFuture<'a, Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let deadline = Instant::now() + PATIENCE;
    let mut failures = 0;
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let pause = pause(&error, failures);
        if !error.is_retryable() || Instant::now() + pause >= deadline {
            return Err(error);
        }
        failures += 1;
        tracing::debug!(%error, "the controller is asked again");
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::FutureExt as _;
    use runtimed_api::problem::{Code, Problem};

    use super::*;

    #[tokio::test]
    async fn a_controller_that_is_away_is_asked_again_and_one_that_says_no_is_not() {
        let away = || ClientError::Unreachable { url: "http://c".to_owned(), why: "refused".to_owned() };
        let no = || {
            let problem = Box::new(Problem::new(Code::NotFound, "no"));
            ClientError::Problem { status: 404, problem, retry_after: None }
        };
        let asked = AtomicU32::new(0);
        let first = |time| if time < 2 { Err(away()) } else { Ok(time) };
        let answer = again(|| ready(first(asked.fetch_add(1, Ordering::Relaxed))).boxed());
        assert_eq!(answer.await.expect("an answer"), 2);
        asked.store(0, Ordering::Relaxed);
        let then = |time| if time < 1 { away() } else { no() };
        let refused = again(|| ready(Err::<(), _>(then(asked.fetch_add(1, Ordering::Relaxed)))).boxed());
        assert_eq!(refused.await.expect_err("refused").code(), Some(Code::NotFound));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }
}
