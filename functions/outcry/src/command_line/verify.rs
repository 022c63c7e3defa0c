//! `outcry verify`: a platform, checked from outside.

use anyhow::ensure;
use outcry::verify::{self, Check};

use super::say;

/// Checks the platform at this address; prints a line for each check. An error when one has failed.
pub(crate) async fn verify(url: &str) -> anyhow::Result<()> {
    let failed = verify::run(url, &line).await?;
    ensure!(failed == 0, "{failed} checks failed at {url}");
    say("all checks passed");
    Ok(())
}

fn line(check: &Check) {
    let (mark, text) = match &check.outcome {
        Ok(seen) => ("ok    ", seen),
        Err(wrong) => ("FAILED", wrong),
    };
    say(&format!("{mark}  {:<46} {:>6.0} ms  {text}", check.name, check.took.as_secs_f64() * 1000.0));
}
