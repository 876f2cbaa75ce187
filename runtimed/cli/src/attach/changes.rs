//! A Run's state, as it changes.

use futures_util::StreamExt as _;
use runtimed_api::run::Run;
use runtimed_client::ClientError;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Attached, status};
use crate::failure::Failure;
use crate::patience::Patience;

/// Tells each change to `told` and `seen`, and gives the Run when it is over. A broken connection is made again.
///
/// # Errors
/// The Run is not there, or the connection was lost for good.
pub async fn until_over(
    attached: &Attached,
    told: &watch::Sender<Run>,
    seen: impl Fn(&Run),
) -> Result<Run, Failure> {
    let Attached { controller, namespace, name } = attached;
    let mut patience = Patience::default();
    loop {
        let lost = match controller.events(namespace, name).await {
            Ok(mut runs) => loop {
                match runs.next().await {
                    Some(Ok(run)) => {
                        patience.renew();
                        seen(&run);
                        let over = status(&run)?.phase.is_terminal();
                        told.send_replace(run.clone());
                        if over {
                            return Ok(run);
                        }
                    }
                    Some(Err(error)) => break Some(error),
                    // The server has no more to tell, as when it shuts down: ask again.
                    None => break None,
                }
            },
            Err(error) => Some(error),
        };
        again(&mut patience, lost, attached).await?;
    }
}

/// Waits before the next try.
async fn again(
    patience: &mut Patience,
    lost: Option<ClientError>,
    attached: &Attached,
) -> Result<(), Failure> {
    if let Some(error) = &lost
        && !error.is_retryable()
    {
        return Err(lost.map_or_else(|| Failure::fault("the connection was lost"), Failure::from));
    }
    match patience.next_wait() {
        Some(wait) => sleep(wait).await,
        None => {
            let why = lost
                .map_or_else(|| "the controller has no more to tell".to_owned(), |error| error.to_string());
            let Attached { name, namespace, .. } = attached;
            return Err(Failure::fault(format!("the connection was lost: {why}"))
                .hint(format!("the Run goes on without you: runtimectl wait {name} -n {namespace}")));
        }
    }
    Ok(())
}
