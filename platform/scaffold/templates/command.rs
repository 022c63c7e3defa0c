//! `some-function`: give a note back, with the caller and the time.

use contracts::somedomain::{SomeFunction, SomeReply};
use platform::{Cx, Function, Result};

/// Commands of [`SomeFunction`].
pub fn function() -> Function {
    Function::command(some_function)
}

async fn some_function(cx: &mut Cx, command: SomeFunction) -> Result<SomeReply> {
    // Next: what it is for. `cx.caller()?` refuses who is not logged in. `cx.tx().await?` is the transaction
    // for `sqlx::query!`: its tables are a new file in migrations/somedomain/, then `just prepare-sql`.
    // `cx.emit(&event)?` says what happened, when `function()` declares it with `.emits::<Event>()`.
    let caller = cx.caller().ok().map(|caller| caller.id);
    Ok(SomeReply { note: command.note, caller, at: cx.now() })
}

#[cfg(test)]
mod tests {
    use contracts::{Timestamp, UserId};
    use testing::Harness;
    use uuid::Uuid;

    use super::*;

    const ANN: UserId = UserId(Uuid::from_u128(1));

    #[tokio::test]
    async fn a_note_comes_back_with_the_caller_and_the_time() {
        let now = Timestamp::now();
        let app = Harness::start(crate::database()).await.at(now);
        let command = SomeFunction { note: "hello".into() };

        let of_ann = app.as_user(ANN).call(&function(), &command).await.unwrap();
        let of_nobody = app.call(&function(), &command).await.unwrap();
        let empty = app.answer(&function(), &SomeFunction { note: String::new() }).await;

        assert_eq!(of_ann, SomeReply { note: "hello".into(), caller: Some(ANN), at: now });
        assert_eq!(of_nobody.caller, None);
        assert_eq!(empty.status, 400);
    }
}
