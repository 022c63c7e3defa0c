//! One invocation, seen from inside.
//!
//! A handler reads the caller and the time here, works in the transaction that is given to it, and
//! says what happened with [`Cx::emit`]. It can neither commit nor publish nor acknowledge: the
//! runner does that, once, for all functions.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use sqlx::{PgConnection, PgPool, Postgres, Transaction, pool::PoolConnection};
use uuid::Uuid;

use crate::{
    Caller, Error, Result, Timestamp, Trace,
    bus::{Backlog, Bus},
    cache::{Cache, Cached},
    error::Refused,
    function::Spec,
    metrics::{Counter, Delay, Waits},
    tally::Tally,
    wire::{Command, Envelope, Event, Outgoing, Query},
};

/// What functions need beside the database, made once at start, found by type.
pub(crate) type Resources = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

/// One invocation, seen from inside.
pub struct Cx {
    pub(crate) spec: Arc<Spec>,
    pub(crate) pool: PgPool,
    pub(crate) resources: Arc<Resources>,
    pub(crate) bus: Option<Bus>,
    pub(crate) caller: Option<Caller>,
    pub(crate) now: Timestamp,
    pub(crate) trace: Trace,
    pub(crate) tx: Option<Transaction<'static, Postgres>>,
    pub(crate) reading: Reading,
    pub(crate) savepoint: Savepoint,
    pub(crate) emitted: Emitted,
    pub(crate) tally: Tally,
    pub(crate) waits: Waits,
    pub(crate) cache: Option<Arc<Cache>>,
}

/// Whether the invocation only reads.
pub(crate) enum Reading {
    /// It writes: in a transaction.
    No,
    /// It reads: on a plain connection, taken on first use.
    Yes(Option<PoolConnection<Postgres>>),
}

/// Whether the handler's own work can be undone without losing the claim of its command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Savepoint {
    /// Not needed: nothing worth keeping is in the transaction.
    None,
    /// To be set when the handler first asks for the transaction.
    Wanted,
    /// Set.
    Set,
}

impl Cx {
    /// The verified user who asked; refuses with `UNAUTHORIZED` when there is none.
    pub fn caller(&self) -> Result<Caller> {
        self.caller.ok_or_else(|| Refused::unauthenticated().into())
    }

    /// The instant of this invocation: the stream's stamp of the message, or the wall clock for
    /// queries and due work. It does not move while the handler runs.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The transaction. Begins on first use: what takes long, such as hashing a password, comes
    /// before, so that no connection waits for it. In a query it is a plain connection.
    pub async fn tx(&mut self) -> Result<&mut PgConnection> {
        if let Reading::Yes(connection) = &mut self.reading {
            return Ok(match connection {
                Some(connection) => connection,
                None => connection.insert(self.waits.note(&self.pool, self.pool.acquire()).await?),
            });
        }
        if self.tx.is_none() {
            self.tx = Some(self.waits.note(&self.pool, self.pool.begin()).await?);
        }
        let Some(tx) = self.tx.as_mut() else {
            return Err(Error::Broken(anyhow::anyhow!("no transaction")));
        };
        if self.savepoint == Savepoint::Wanted {
            sqlx::raw_sql("savepoint handler").execute(&mut **tx).await?;
            self.savepoint = Savepoint::Set;
        }
        Ok(tx)
    }

    /// A connection outside the transaction, given back when dropped: for a look before work that
    /// takes long. In front of [`Cx::tx`], or a small pool may wait for itself.
    pub async fn connection(&self) -> Result<PoolConnection<Postgres>> {
        Ok(self.waits.note(&self.pool, self.pool.acquire()).await?)
    }

    /// Says that something happened. Written with the transaction, published after its commit.
    pub fn emit<E: Event>(&self, event: &E) -> Result<()> {
        self.emitted.push(0, &self.spec, &self.trace, event)
    }

    /// Counts `more` of something when the transaction commits: what broke and is tried again was not counted. A
    /// refusal is a decision, so it counts. `value` is the counter's label.
    pub fn count(&mut self, counter: &Counter, value: &'static str, more: u64) -> Result<()> {
        self.declared(counter.name, self.spec.counts.iter().any(|known| known.name == counter.name))?;
        self.tally.count(counter, value, more);
        Ok(())
    }

    /// Measures how long after `since` the transaction commits.
    pub fn time(&mut self, delay: &Delay, since: Timestamp) -> Result<()> {
        self.declared(delay.name, self.spec.times.iter().any(|known| known.name == delay.name))?;
        self.tally.time(delay, since);
        Ok(())
    }

    fn declared(&self, name: &str, is_declared: bool) -> Result<()> {
        if is_declared {
            return Ok(());
        }
        Err(anyhow::anyhow!("{} counts {name} but does not declare it", self.spec.name).into())
    }

    /// Asks another domain; declared with [`Function::asks`](crate::Function::asks).
    pub async fn ask<Q: Query>(&self, query: &Q) -> Result<Q::Reply> {
        if !self.spec.asks.contains(&(Q::DOMAIN, Q::FUNCTION)) {
            let (function, asked) = (self.spec.name, Q::FUNCTION);
            return Err(anyhow::anyhow!("{function} asks {asked} but does not declare it").into());
        }
        self.bus()?.ask(query, self.caller, &self.trace).await?.parse()
    }

    /// What the COMMANDS stream still holds for `keys` of command `C`, and the stream's clock; declared with
    /// [`Function::sees_backlog`](crate::Function::sees_backlog).
    pub async fn backlog<C: Command>(&self, keys: &[Uuid]) -> Result<Backlog> {
        if !self.spec.backlog {
            let function = self.spec.name;
            return Err(anyhow::anyhow!("{function} looks at the backlog but does not declare it").into());
        }
        self.bus()?.backlog::<C>(keys).await
    }

    /// What is kept in memory of something, loaded when it is not: never older than the newest change of `key` that this
    /// process has heard of, and, with one nats-server, not older than any answer that its asker had before. What
    /// depends on who asks or on the time is not kept but computed from it. Declared with
    /// [`Function::caches`](crate::Function::caches).
    ///
    /// `key` is that of the domain's events and commands; a projection's keys are its own, and all of them change
    /// with each batch.
    pub fn cached<T: Send + Sync + 'static>(&self, key: Uuid) -> Result<Cached<T>> {
        if !self.spec.caches {
            return Err(anyhow::anyhow!("{} caches but does not declare it", self.spec.name).into());
        }
        Ok(Cached::find(self.cache.as_ref(), key))
    }

    /// Something made once at start; declared with [`Function::needs`](crate::Function::needs).
    pub fn resource<T: Any + Send + Sync>(&self) -> Result<Arc<T>> {
        self.resources
            .get(&TypeId::of::<T>())
            .and_then(|resource| Arc::clone(resource).downcast().ok())
            .ok_or_else(|| {
                let (function, wanted) = (self.spec.name, std::any::type_name::<T>());
                anyhow::anyhow!("{function} uses {wanted} but does not declare that it needs it").into()
            })
    }

    pub(crate) fn bus(&self) -> Result<&Bus> {
        self.bus.as_ref().ok_or_else(|| anyhow::anyhow!("this invocation has no bus").into())
    }

    /// Undoes what the handler did and keeps what came before it.
    pub(crate) async fn undo(&mut self) -> Result<()> {
        self.emitted.clear();
        if self.savepoint == Savepoint::Set {
            if let Some(tx) = self.tx.as_mut() {
                sqlx::raw_sql("rollback to savepoint handler").execute(&mut **tx).await?;
            }
        } else if self.savepoint == Savepoint::None
            && let Some(tx) = self.tx.take()
        {
            tx.rollback().await?;
        }
        Ok(())
    }
}

/// The events of one invocation. Shared with the members of a batch, each of which emits in its
/// own name.
#[derive(Clone, Default)]
pub(crate) struct Emitted(Arc<Mutex<Vec<(usize, Outgoing)>>>);

impl Emitted {
    pub(crate) fn push<E: Event>(&self, member: usize, spec: &Spec, trace: &Trace, event: &E) -> Result<()> {
        if !spec.emits.contains(&E::NAME) {
            let (function, name) = (spec.name, E::NAME);
            return Err(anyhow::anyhow!("{function} emits {name} but does not declare it").into());
        }
        let (fact, version) =
            E::NAME.rsplit_once('.').ok_or_else(|| anyhow::anyhow!("{} has no version", E::NAME))?;
        let id = Uuid::now_v7();
        let envelope = Envelope {
            id: Some(id),
            event: fact.to_owned(),
            version: version.to_owned(),
            timestamp: Some(Timestamp::now()),
            trace_id: trace.trace_id.clone(),
            correlation_id: trace.correlation_id.clone(),
            service: spec.name.to_owned(),
            payload: event,
        };
        let outgoing = Outgoing {
            subject: format!("events.{}.{}", E::NAME, event.key()),
            id,
            traceparent: trace.traceparent(),
            correlation_id: trace.correlation_id.clone(),
            service: spec.name.to_owned(),
            body: serde_json::value::to_raw_value(&envelope)?,
        };
        self.lock().push((member, outgoing));
        Ok(())
    }

    /// Takes the events of the members for which `keep` is true, in the order of emission.
    pub(crate) fn take(&self, keep: impl Fn(usize) -> bool) -> Vec<Outgoing> {
        std::mem::take(&mut *self.lock())
            .into_iter()
            .filter(|(member, _)| keep(*member))
            .map(|(_, outgoing)| outgoing)
            .collect()
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(usize, Outgoing)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One member of a batch.
pub struct Received<M> {
    /// The verified user who asked.
    pub caller: Option<Caller>,
    /// The stream's stamp: when the message was stored.
    pub received_at: Timestamp,
    /// Identifies the command or event: the same id is the same one, delivered again.
    pub id: Uuid,
    /// Of a command that came with a key: what its repetitions must equal.
    pub fingerprint: Option<Uuid>,
    /// What was sent.
    pub message: M,
    pub(crate) index: usize,
    pub(crate) spec: Arc<Spec>,
    pub(crate) trace: Trace,
    pub(crate) emitted: Emitted,
}

impl<M> Received<M> {
    /// The verified user who asked; refuses with `UNAUTHORIZED` when there is none.
    pub fn caller(&self) -> Result<Caller, Refused> {
        self.caller.ok_or_else(Refused::unauthenticated)
    }

    /// Says that something happened because of this member. Dropped if the member is refused.
    pub fn emit<E: Event>(&self, event: &E) -> Result<()> {
        self.emitted.push(self.index, &self.spec, &self.trace, event)
    }
}
