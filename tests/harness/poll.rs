//! Waiting for a condition: the only place of the project that sleeps.

use std::time::{Duration, Instant};

use crate::{Error, Result};

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(200);

/// Look until there is a result, at most for `patience`. `look` says what it
/// saw instead when it is not so yet; that is part of the error.
///
/// # Errors
/// [`Error::TimedOut`], with what was last seen.
pub async fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = SHORTEST;
    loop {
        let seen = match tokio::time::timeout(patience, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(seen)) => seen,
            Err(_) => "no answer while looking".to_owned(),
        };
        if start.elapsed() >= patience {
            return Err(Error::TimedOut { what: what.to_owned(), waited: start.elapsed(), seen });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

/// The same for guards, whose `drop` cannot await: true once it is so.
#[expect(clippy::disallowed_methods, reason = "the one place that sleeps, between two looks")]
pub fn until_blocking(patience: Duration, mut look: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    let mut pause = SHORTEST;
    loop {
        if look() {
            return true;
        }
        if start.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_last_seen_is_told() {
        let mut count = 0;
        let error = until("three", Duration::from_millis(30), async || {
            count += 1;
            Err::<(), _>(format!("count {count}"))
        })
        .await
        .unwrap_err();
        assert!(error.to_string().starts_with("three: not so after"), "{error}");
        assert!(error.to_string().contains("count"), "{error}");
    }

    #[tokio::test]
    async fn a_condition_that_comes_true_ends_the_wait() {
        let mut count = 0;
        let found = until("three", Duration::from_secs(5), async || {
            count += 1;
            if count == 3 { Ok(count) } else { Err("fewer".to_owned()) }
        })
        .await;
        assert_eq!(found.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_look_that_hangs_does_not_outlast_the_patience() {
        let error = until("an answer", Duration::from_millis(30), async || {
            std::future::pending::<Result<(), String>>().await
        })
        .await
        .unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }));
    }
}
