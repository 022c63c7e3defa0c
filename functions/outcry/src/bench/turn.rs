//! One scenario, from its people to its audit.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Place, Plan, Show, address,
    cpu::Used,
    load::Load,
    market::{Market, Resolved},
    name,
    report::{Audit, Row, Scenario},
    tally::Tally,
};
use crate::{audit::Fault, launch::Platform};

/// One scenario, through all its turns.
pub(super) struct Turn {
    pub(super) scenario: Scenario,
    pub(super) items: usize,
    load: Load,
    /// nats-server and Postgres of its platform.
    services: (Option<u32>, Option<u32>),
    /// The processes of its platform's parts.
    parts: Vec<u32>,
    tally: Tally,
    used: Used,
    resolved: Resolved,
    figures_within: Duration,
    faults: Vec<Fault>,
}

impl Turn {
    /// Registers people, and has somebody offer the items.
    pub(super) async fn prepare(
        plan: &Plan,
        show: Show,
        place: &Place,
        scenario: Scenario,
        items: usize,
    ) -> anyhow::Result<Self> {
        let url = &place.url;
        let started = Instant::now();
        let is_echo = scenario == Scenario::Echo;
        let market = Market::open(url, plan.bidders, items, !is_echo).await?;
        let name = name(scenario, items);
        (show.step)(&format!(
            "{name}: {} people registered, all is offered, in {:.1?}",
            plan.bidders,
            started.elapsed()
        ));
        let load = Load {
            name,
            address: address(url)?,
            market: Arc::new(market),
            verb: if is_echo { "echo" } else { "bids" },
            connections: plan.connections,
            pace: plan.pace(),
            warm_up: Duration::from_secs(plan.warm_up),
            time: Duration::from_secs(plan.seconds),
            show: show.beat,
        };
        Ok(Self {
            scenario,
            items,
            load,
            parts: place.platform.as_ref().map(Platform::part_pids).unwrap_or_default(),
            services: place.platform.as_ref().map(Platform::service_pids).unwrap_or_default(),
            tally: Tally::new()?,
            used: Used::default(),
            resolved: Resolved::default(),
            figures_within: Duration::ZERO,
            faults: Vec::new(),
        })
    }

    /// One round: the load, then everything that it left behind, so that the next turn finds a quiet machine.
    pub(super) async fn take(&mut self) -> anyhow::Result<()> {
        self.load.market.renew().await?;
        let before = Used::until_now(self.services, &self.parts);
        let tally = self.load.clone().run().await?;
        if let (Some(before), Some(after)) = (before, Used::until_now(self.services, &self.parts)) {
            self.used.add(Used { load: tally.all.1, ..after.since(before) });
        }
        self.tally.add(&tally)?;
        if self.scenario == Scenario::Echo {
            return Ok(());
        }
        let Resolved { accepted, refused } = self.load.market.resolve().await;
        self.resolved.accepted += accepted;
        self.resolved.refused += refused;
        match self.load.market.settle().await? {
            Ok(within) => {
                self.figures_within = self.figures_within.max(within);
                self.faults.clear();
            }
            // Of the last round: what was late may have come since.
            Err(faults) => self.faults = faults,
        }
        Ok(())
    }

    /// What was counted, and the audit.
    pub(super) async fn finish(self) -> anyhow::Result<Row> {
        let Self { scenario, items, load, tally, used, resolved, figures_within, mut faults, .. } = self;
        let cpu = if used == Used::default() { None } else { used.each(tally.all.0) };
        if scenario == Scenario::Echo {
            return Ok(Row { cpu, ..Row::of(scenario, items, &tally, None) });
        }
        let (bids, found) = load.market.audit().await?;
        faults.extend(found);
        let audit = Audit::new(bids, resolved, figures_within.as_secs_f64(), &faults);
        Ok(Row { cpu, ..Row::of(scenario, items, &tally, Some(audit)) })
    }
}
