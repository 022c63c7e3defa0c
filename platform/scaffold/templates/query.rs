//! `some-function`: how many words does a text have?

use contracts::somedomain::{SomeFunction, SomeReply};
use platform::{Cx, Function, Result};

/// Queries of [`SomeFunction`].
pub fn function() -> Function {
    Function::query(some_function)
}

async fn some_function(cx: &mut Cx, query: SomeFunction) -> Result<SomeReply> {
    // Next: what it is for. `cx.tx().await?` is the connection for `sqlx::query!`, then `just prepare-sql`.
    // `cx.ask(&query).await?` asks another domain, `cx.caller()?` refuses who is not logged in.
    let words = query.text.split_whitespace().count();
    Ok(SomeReply { words, at: cx.now() })
}

#[cfg(test)]
mod tests {
    use testing::Harness;

    use super::*;

    #[tokio::test]
    async fn words_are_counted_however_they_are_spaced() {
        let app = Harness::start(crate::database()).await;

        for (text, words) in [("", 0), ("lamp", 1), ("  a brass\tlamp ", 3)] {
            let reply = app.ask(&function(), &SomeFunction { text: text.into() }).await.unwrap();
            assert_eq!(reply.words, words, "{text:?}");
        }
    }
}
