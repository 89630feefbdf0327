//! Questions to several servers of which some may not answer.

use std::{pin::pin, time::Duration};

use cache_core::{Error, Result};
use futures_util::{
    StreamExt as _,
    future::{Either, select},
    stream::FuturesUnordered,
};
use tokio::time::sleep;

/// How long the others are waited for after the first has answered.
const GRACE: Duration = Duration::from_millis(50);

/// Asks all servers at once. Returns the answers that have come shortly after the first.
///
/// # Errors
///
/// Returns the last error if no server gives an answer, and `None` if no server was asked.
pub(super) async fn survey<T>(
    questions: impl IntoIterator<Item = impl Future<Output = Result<T>>>,
) -> Result<Vec<T>, Option<Error>> {
    let mut questions: FuturesUnordered<_> = questions.into_iter().collect();
    let mut last = None;
    let first = loop {
        match questions.next().await {
            Some(Ok(answer)) => break answer,
            Some(Err(error)) => last = Some(error),
            None => return Err(last),
        }
    };
    let mut answers = vec![first];
    let mut grace = pin!(sleep(GRACE));
    while let Either::Left((Some(answer), _)) = select(questions.next(), grace.as_mut()).await {
        answers.extend(answer.ok());
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use cache_core::ErrorKind;
    use futures_util::future::{BoxFuture, FutureExt as _, ready};

    use super::*;

    fn fails(kind: ErrorKind) -> BoxFuture<'static, Result<u32>> {
        ready(Err(Error::new(kind, "no"))).boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_answer_delays_nothing_for_long() {
        let late = sleep(GRACE / 2).map(|()| Ok(2)).boxed();
        let too_late = sleep(GRACE * 2).map(|()| Ok(3)).boxed();
        let answers = survey([fails(ErrorKind::Timeout), late, too_late, ready(Ok(1)).boxed(), pending().boxed()]);
        assert_eq!(answers.await.unwrap(), [1, 2]);
    }

    #[tokio::test]
    async fn without_an_answer_it_fails() {
        let failed = survey([fails(ErrorKind::Denied), fails(ErrorKind::Denied)]).await;
        assert_eq!(failed.unwrap_err().unwrap().kind(), ErrorKind::Denied);
        assert!(survey::<u32>(Vec::<BoxFuture<'_, _>>::new()).await.unwrap_err().is_none());
    }
}
