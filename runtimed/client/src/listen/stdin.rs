//! The end of standard input as the order to end: whoever started a server for itself alone keeps the other end, and
//! the kernel closes it when that process dies, however it dies.

use std::{io, thread};

use tokio::sync::oneshot;

/// Returns when standard input has ended. What is written there means nothing.
pub async fn stdin_closed() {
    let (closed, told) = oneshot::channel();
    // A thread of its own, which the end of the process ends: a blocking read cannot be called off.
    let reader = thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let _end = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _gone = closed.send(());
    });
    if let Err(error) = reader {
        tracing::error!(%error, "standard input is not watched");
        std::future::pending::<()>().await;
    }
    let _closed = told.await;
}
