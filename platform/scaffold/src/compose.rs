//! Where a function and a domain belong in `docker-compose.yaml`. Pure: text in, text out.

use anyhow::Context;

use crate::{names::Name, text};

/// The file, from the root.
pub(crate) const FILE: &str = "docker-compose.yaml";

/// The heading of what comes behind the domains' functions.
const UPKEEP: &str = "  # --- upkeep ";

/// Adds the container of a function or a relay: behind the last function of its domain, else behind the other domains'.
pub(crate) fn function(text: &str, domain: &str, name: &Name) -> anyhow::Result<String> {
    let block = include_str!("../templates/compose_function.yaml")
        .replace("some-function", name.kebab())
        .replace("somedomain", domain)
        .replace("SOME_FUNCTION", &name.snake().to_uppercase());
    let secret =
        format!("  nats_{name}: {{ file: \"${{OUTCRY_SECRETS:-deploy/secrets.d}}/nats_{name}\" }}\n");
    let text =
        text::line_after_last(text, |line| line.starts_with("  nats_") && line.contains("_SECRETS"), &secret)
            .context("it has no secret of a user of the bus, such as `nats_edge`")?;
    let text = text.as_str();
    let relay = format!("\n  {domain}-relay:\n");
    let kin = format!("    <<: *{domain}\n");
    // A relay stays the last.
    let end = text.find(&relay).map_or(text.len(), |at| at + 1);
    let above = text.get(..end).unwrap_or_default();
    let place = match above.rfind(&kin) {
        Some(at) => at + blank_line(above.get(at..).unwrap_or_default()),
        None if end < text.len() => end,
        None => upkeep(text)?,
    };
    Ok(inserted(text, place, &block))
}

/// Adds what the functions of a domain have in common, beside the other domains, and the secret of its database.
pub(crate) fn domain(text: &str, others: &[String], name: &Name) -> anyhow::Result<String> {
    let named = |template: &str| {
        template.replace("somedomain", name.kebab()).replace("SOMEDOMAIN", &name.kebab().to_uppercase())
    };
    let common = others
        .iter()
        .filter_map(|other| text.find(&format!("\nx-{other}: &{other}\n")))
        .max()
        .context("it has no domain, such as `x-stats: &stats`")?;
    let place = common + blank_line(text.get(common..).unwrap_or_default());
    let mut text = inserted(text, place, &named(include_str!("../templates/domain/compose.yaml")));
    for line in [
        "    SOMEDOMAIN_DATABASE_URL_FILE: /run/secrets/somedomain_database_url\n",
        "    - somedomain_database_url\n",
        "  somedomain_database_url: { file: \"${OUTCRY_SECRETS:-deploy/secrets.d}/somedomain_database_url\" }\n",
    ] {
        let is_alike = |one: &str| {
            others.iter().any(|other| {
                one == line.replace("somedomain", other).replace("SOMEDOMAIN", &other.to_uppercase())
            })
        };
        text = text::line_after_last(&text, is_alike, &named(line))
            .with_context(|| format!("it has no line such as `{}`", line.trim()))?;
    }
    let heading = format!("  # --- {name} ");
    let heading = format!("{heading}{}\n", "-".repeat(118_usize.saturating_sub(heading.len())));
    Ok(inserted(&text, upkeep(&text)?, &heading))
}

fn upkeep(text: &str) -> anyhow::Result<usize> {
    text.find(UPKEEP).with_context(|| format!("it has no heading `{}`", UPKEEP.trim()))
}

/// How far it is behind the next blank line.
fn blank_line(text: &str) -> usize {
    text.find("\n\n").map_or(text.len(), |at| at + "\n\n".len())
}

fn inserted(text: &str, at: usize, what: &str) -> String {
    let (before, after) = text.split_at(at);
    format!("{before}{what}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# As containers.\n\
x-stats: &stats
  <<: *part

    STATS_DATABASE_URL_FILE: /run/secrets/stats_database_url
    - stats_database_url

services:
  get-user-stats:
    <<: *stats
    build: {}

  stats-relay:
    <<: *stats

  # --- upkeep ---
  maintain:
  stats_database_url: { file: \"${OUTCRY_SECRETS:-deploy/secrets.d}/stats_database_url\" }
  nats_edge: { file: \"${OUTCRY_SECRETS:-deploy/secrets.d}/nats_edge\" }
";

    fn at(text: &str, words: &str) -> usize {
        text.find(words).unwrap_or_else(|| panic!("{words:?} is missing in\n{text}"))
    }

    #[test]
    fn a_function_stands_behind_its_kin_and_before_the_relay() {
        let text = function(TEXT, "stats", &"greet-bidder".parse().unwrap()).unwrap();

        assert!(at(&text, "build: {}\n\n  greet-bidder:\n") < at(&text, "\n\n  stats-relay:"), "{text}");
        assert!(text.contains("replicas: \"${GREET_BIDDER_REPLICAS:-1}\" }\n\n  stats-relay:"), "{text}");
    }

    #[test]
    fn the_first_function_of_a_domain_stands_below_its_heading() {
        let text = domain(TEXT, &["stats".to_owned()], &"orders".parse().unwrap()).unwrap();
        let text = function(&text, "orders", &"get-order".parse().unwrap()).unwrap();
        let text = function(&text, "orders", &"orders-relay".parse().unwrap()).unwrap();
        let text = function(&text, "orders", &"pay-order".parse().unwrap()).unwrap();

        let order = [
            "x-orders: &orders\n  <<: *part\n",
            "    ORDERS_DATABASE_URL_FILE: /run/secrets/orders_database_url\n",
            "    - orders_database_url\n",
            "  stats-relay:\n",
            "  # --- orders ---",
            "\n  get-order:\n    <<: *orders\n",
            "\n  pay-order:\n    <<: *orders\n",
            "\n  orders-relay:\n    <<: *orders\n",
            "  # --- upkeep",
            "  orders_database_url: { file: ",
            "  nats_edge: { file: ",
            "  nats_get-order: { file: ",
        ];
        assert!(order.map(|words| at(&text, words)).is_sorted(), "{text}");
    }
}
