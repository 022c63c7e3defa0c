//! `some-function`: look at the clock at every full minute.

use contracts::Timestamp;
use platform::{Cx, Function, Result};

use crate::DOMAIN;

/// Due work that finds nothing to do yet.
pub fn function() -> Function {
    Function::due(DOMAIN, "some-function", next_minute, some_function)
}

async fn next_minute(cx: &mut Cx, (): ()) -> Result<Option<Timestamp>> {
    // Next: the earliest due time of the domain's own rows, `select min(due_at) ..`; `None` when nothing waits.
    // With `.wakes_on::<Event>()` it looks again when something happened that may change the answer.
    let minute = cx.now().unix_seconds().div_euclid(60) + 1;
    Ok(Timestamp::from_unix_nanos(i128::from(minute) * 60_000_000_000))
}

async fn some_function(cx: &mut Cx, (): ()) -> Result<usize> {
    // Next: take what is due, `select .. where due_at <= $1 order by id limit 500 for update skip locked`,
    // do it, and return how much that was: above 0 it is called again at once, for the rest.
    tracing::debug!(now = %cx.now(), "nothing is due");
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use testing::Harness;

    use super::*;

    #[tokio::test]
    async fn it_is_due_at_the_next_full_minute_and_then_finds_nothing() {
        let app = Harness::start(crate::database()).await;
        let before = Timestamp::now();

        let next = app.next_due(&function()).await.unwrap().unwrap();
        let done = app.work(&function()).await.unwrap();

        assert!(before < next && next <= Timestamp::now() + Duration::from_secs(60), "{next}");
        assert_eq!(next.unix_seconds() % 60, 0, "{next}");
        assert_eq!(done, 0);
    }
}
