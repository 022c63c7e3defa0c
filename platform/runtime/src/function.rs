//! One deployable unit: a name, what wakes it, and the code that answers.

use std::{any::TypeId, future::Future, sync::Arc};

use crate::{
    Cx, Event, Result, Timestamp,
    config::{Config, Env},
    cx::{Received, Resources},
    error::Refused,
    invoke::{BatchCommand, Commands, DueWork, Events, Queries, Recall, SingleCommand, Work},
    metrics::{Counter, Delay},
    outcome::Outcomes,
    replay::SnapshotPage,
    sender::Addressed,
    wire::{self, Command, Message, Query},
};

/// Implemented by every `async fn(&mut Cx, M) -> Result<R>`; nobody implements it by hand.
pub trait Handler<'a, M, R>: Clone + Send + Sync + 'static {
    /// The running handler.
    type Future: Future<Output = Result<R>> + Send + 'a;
    /// Starts it.
    fn call(&self, cx: &'a mut Cx, message: M) -> Self::Future;
}

impl<'a, M, R, F, Fut> Handler<'a, M, R> for F
where
    F: Fn(&'a mut Cx, M) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<R>> + Send + 'a,
{
    type Future = Fut;

    fn call(&self, cx: &'a mut Cx, message: M) -> Fut {
        self(cx, message)
    }
}

/// A set of events that a consumer reacts to; made with [`hears!`](crate::hears).
pub trait Hears: Sized + Send + Sync + 'static {
    /// The names of the events.
    const NAMES: &'static [&'static str];

    /// Reads the payload of the event called `name`; `None` when it is not one of [`Self::NAMES`].
    fn read(name: &str, payload: &str) -> Option<serde_json::Result<Self>>;

    /// Which event it is.
    fn fact(&self) -> Fact;
}

/// Which event it is, whoever tells it: the stream, or a snapshot of the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact {
    /// Its name.
    pub event: &'static str,
    /// What it happened to.
    pub key: uuid::Uuid,
    /// See [`Event::ordinal`].
    pub ordinal: i64,
}

impl Fact {
    /// Of an event.
    pub fn of<E: Event>(event: &E) -> Self {
        Self { event: E::NAME, key: event.key(), ordinal: event.ordinal() }
    }
}

/// Declares the events that a consumer reacts to, as an enum with a variant for each.
#[macro_export]
macro_rules! hears {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident($event:ty)),+ $(,)? }) => {
        $(#[$meta])*
        $vis enum $name { $($(#[$variant_meta])* $variant($event)),+ }

        impl $crate::function::Hears for $name {
            const NAMES: &'static [&'static str] = &[$(<$event as $crate::Event>::NAME),+];

            fn read(name: &str, payload: &str) -> Option<$crate::function::JsonResult<Self>> {
                match name {
                    $(<$event as $crate::Event>::NAME => {
                        Some($crate::function::from_json(payload).map(Self::$variant))
                    })+
                    _ => None,
                }
            }

            fn fact(&self) -> $crate::function::Fact {
                match self {
                    $(Self::$variant(event) => $crate::function::Fact::of(event),)+
                }
            }
        }
    };
}

#[doc(hidden)]
pub use serde_json::{Result as JsonResult, from_str as from_json};

/// What is known of a function without running it.
#[derive(Debug)]
pub struct Spec {
    /// The domain whose database it works on.
    pub domain: &'static str,
    /// Its one word: binary, file, subject, durable consumer and span.
    pub name: &'static str,
    /// What wakes it.
    pub wakes: Wakes,
    /// The events it may emit.
    pub emits: Vec<&'static str>,
    /// What it counts itself, beside what is counted of all.
    pub counts: Vec<&'static Counter>,
    /// The delays that it measures.
    pub times: Vec<&'static Delay>,
    /// The queries that it may ask, each a domain and a function.
    pub asks: Vec<(&'static str, &'static str)>,
    /// Whether it may look at the commands that are stored and not decided.
    pub backlog: bool,
    /// Whether it keeps in memory what it loads.
    pub caches: bool,
    /// How many transactions of one replica run at once.
    pub lanes: usize,
    /// The most messages in one transaction.
    pub batch: usize,
    /// How its projection is made anew, if it keeps one.
    pub rebuild: Option<Rebuild>,
}

/// How a consumer's projection is made anew.
#[derive(Debug, Clone)]
pub struct Rebuild {
    /// All the tables that its handler writes, and nobody else does.
    pub tables: &'static [&'static str],
    /// Who knows what is projected; each tells all of its part.
    pub snapshots: Vec<Snapshot>,
}

/// Who knows what is projected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The domain.
    pub authority: &'static str,
    /// Its query that tells all of it, page by page.
    pub query: &'static str,
}

impl Snapshot {
    fn of<Q: Query>() -> Self {
        Self { authority: Q::DOMAIN, query: Q::FUNCTION }
    }
}

/// What wakes a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wakes {
    /// A command on the stream COMMANDS, or CREDENTIALS when `secret`.
    Command {
        /// Carries a password or a code.
        secret: bool,
    },
    /// A request that is answered at once.
    Query,
    /// Events with these names.
    Events(&'static [&'static str]),
    /// The clock; looked at again when one of these events passes.
    Due(Vec<&'static str>),
}

impl Spec {
    /// The stream and the filter subject of the function's durable consumer, if it has one.
    pub fn consumer(&self) -> Option<(&'static str, Vec<String>)> {
        let (domain, name) = (self.domain, self.name);
        match &self.wakes {
            Wakes::Command { secret: true } => {
                Some((wire::CREDENTIALS, vec![format!("auth.{domain}.{name}")]))
            }
            Wakes::Command { secret: false } => {
                Some((wire::COMMANDS, vec![format!("cmd.{domain}.{name}.*")]))
            }
            Wakes::Events(names) => {
                Some((wire::EVENTS, names.iter().map(|name| format!("events.{name}.*")).collect()))
            }
            Wakes::Query | Wakes::Due(_) => None,
        }
    }

    /// Whether its commits change what others may read: a projection, or what it tells events of.
    pub(crate) fn changes(&self) -> bool {
        !self.emits.is_empty() || self.rebuild.is_some()
    }

    /// How many unacknowledged messages the durable consumer must allow, so that every lane can be
    /// full while the next batch is already under way.
    pub fn max_ack_pending(&self) -> usize {
        self.lanes * self.batch * 2
    }
}

/// One deployable unit: a name, what wakes it, and the code that answers.
#[derive(Clone)]
pub struct Function {
    pub(crate) spec: Arc<Spec>,
    pub(crate) work: Work,
    pub(crate) resources: Vec<Maker>,
}

type Maker = Arc<dyn Fn(&Env, &mut Resources) -> anyhow::Result<()> + Send + Sync>;

impl Function {
    /// Answers commands, each in a transaction of its own.
    pub fn command<C, H>(handler: H) -> Self
    where
        C: Command,
        H: for<'a> Handler<'a, C, C::Reply>,
    {
        let work = Commands::<C, _>::new(SingleCommand(handler), None);
        Self::new::<C>(Wakes::Command { secret: C::SECRET }, Work::Batch(Arc::new(work)), 8, 1)
    }

    /// Answers commands, many in one transaction at a time, so that the next ones gather meanwhile:
    /// a second lane of `place-bid` halved the batches and cost a seventh of the bids per second.
    /// The handler returns a result for each, in order.
    ///
    /// A member's refusal is its own. When the batch breaks its members run one by one.
    pub fn batch_command<C, H>(handler: H) -> Self
    where
        C: Command,
        H: for<'a> Handler<'a, Vec<Received<C>>, Vec<Result<C::Reply>>>,
    {
        let work = Commands::<C, _>::new(BatchCommand(handler), None);
        Self::new::<C>(Wakes::Command { secret: C::SECRET }, Work::Batch(Arc::new(work)), 1, 256)
    }

    /// Like [`Function::batch_command`], for a function whose own rows are the outcomes: it writes
    /// each member's id, fingerprint and decision, refusals too (the shape's included), under a
    /// unique constraint on the id, and `recall` reads them back.
    pub fn recording_command<C, H, R>(handler: H, recall: R) -> Self
    where
        C: Command,
        H: for<'a> Handler<'a, Vec<Received<C>>, Vec<Result<C::Reply>>>,
        R: for<'a> Handler<'a, Vec<uuid::Uuid>, Recall>,
    {
        let work = Commands::<C, _>::new(BatchCommand(handler), Some(Arc::new(recall)));
        Self::new::<C>(Wakes::Command { secret: C::SECRET }, Work::Batch(Arc::new(work)), 1, 256)
    }

    /// Answers requests without writing.
    pub fn query<Q, H>(handler: H) -> Self
    where
        Q: Query,
        H: for<'a> Handler<'a, Q, Q::Reply>,
    {
        let work = Work::Query(Arc::new(Queries::<Q, _>::new(handler)));
        Self::new::<Q>(Wakes::Query, work, 64, 1)
    }

    /// Tells what became of a domain's commands, for senders who did not get the answer in time. Its name
    /// is `<domain>-outcome`; `recall` reads the rows of a function that keeps its outcomes itself.
    pub fn outcomes<R>(domain: &'static str, name: &'static str, recall: R) -> Self
    where
        R: for<'a> Handler<'a, Vec<uuid::Uuid>, Recall>,
    {
        let work = Work::Query(Arc::new(Outcomes { own: Arc::new(recall) }));
        Self::from_spec(domain, name, Wakes::Query, work, 64, 1).sees_backlog()
    }

    /// Reacts to events, many in one transaction, each counted once.
    pub fn events<E, H>(domain: &'static str, name: &'static str, handler: H) -> Self
    where
        E: Hears,
        H: for<'a> Handler<'a, Vec<Received<E>>, ()>,
    {
        let work = Work::Batch(Arc::new(Events::<E, _>::new(handler)));
        Self::from_spec(domain, name, Wakes::Events(E::NAMES), work, 1, 512)
    }

    /// Works when its time has come. `next` says when that is (`None`: nothing waits); `handler`
    /// does what is due, takes it with `skip locked`, and returns how much it did.
    pub fn due<N, H>(domain: &'static str, name: &'static str, next: N, handler: H) -> Self
    where
        N: for<'a> Handler<'a, (), Option<Timestamp>>,
        H: for<'a> Handler<'a, (), usize>,
    {
        let work = Work::Due(Arc::new(DueWork::new(next, handler)));
        Self::from_spec(domain, name, Wakes::Due(Vec::new()), work, 1, 1)
    }

    fn new<M: Message>(wakes: Wakes, work: Work, lanes: usize, batch: usize) -> Self {
        Self::from_spec(M::DOMAIN, M::FUNCTION, wakes, work, lanes, batch)
    }

    fn from_spec(
        domain: &'static str,
        name: &'static str,
        wakes: Wakes,
        work: Work,
        lanes: usize,
        batch: usize,
    ) -> Self {
        let spec = Spec {
            domain,
            name,
            wakes,
            emits: Vec::new(),
            counts: Vec::new(),
            times: Vec::new(),
            asks: Vec::new(),
            backlog: false,
            caches: false,
            lanes,
            batch,
            rebuild: None,
        };
        Self { spec: Arc::new(spec), work, resources: Vec::new() }
    }

    /// Declares an event that the function may emit; emitting another one breaks the invocation.
    #[must_use]
    pub fn emits<E: Event>(self) -> Self {
        self.with(|spec| spec.emits.push(E::NAME))
    }

    /// Declares something that the function counts; counting something else breaks the invocation.
    #[must_use]
    pub fn counts(self, counter: &'static Counter) -> Self {
        self.with(|spec| spec.counts.push(counter))
    }

    /// Declares a delay that the function measures; measuring something else breaks the invocation.
    #[must_use]
    pub fn times(self, delay: &'static Delay) -> Self {
        self.with(|spec| spec.times.push(delay))
    }

    /// Of due work: look at the clock again when this event passes.
    #[must_use]
    pub fn wakes_on<E: Event>(self) -> Self {
        self.with(|spec| {
            if let Wakes::Due(names) = &mut spec.wakes {
                names.push(E::NAME);
            }
        })
    }

    /// Of a consumer that keeps a projection: the tables that its handler writes can be made anew from this snapshot of
    /// the authority and the stream. `outcry replay` does it, and the consumer itself when the stream has let go of
    /// what it had not heard.
    #[must_use]
    pub fn rebuilt_from<Q: Query<Reply = SnapshotPage>>(self, tables: &'static [&'static str]) -> Self {
        let rebuild = Rebuild { tables, snapshots: vec![Snapshot::of::<Q>()] };
        self.with(|spec| spec.rebuild = Some(rebuild))
    }

    /// Of a consumer that hears several authorities: what this one tells belongs to it as well.
    #[must_use]
    pub fn and_from<Q: Query<Reply = SnapshotPage>>(self) -> Self {
        self.with(|spec| {
            if let Some(rebuild) = &mut spec.rebuild {
                rebuild.snapshots.push(Snapshot::of::<Q>());
            }
        })
    }

    /// How many transactions of one replica run at once, and how many messages each may hold.
    #[must_use]
    pub fn lanes(self, lanes: usize, batch: usize) -> Self {
        self.with(|spec| (spec.lanes, spec.batch) = (lanes, batch))
    }

    /// Declares a query that the function may ask; asking another one breaks the invocation.
    #[must_use]
    pub fn asks<Q: Query>(self) -> Self {
        self.with(|spec| spec.asks.push((Q::DOMAIN, Q::FUNCTION)))
    }

    /// Declares that the function looks at the commands that are stored and not decided, with [`Cx::backlog`];
    /// otherwise that breaks the invocation.
    #[must_use]
    pub fn sees_backlog(self) -> Self {
        self.with(|spec| spec.backlog = true)
    }

    /// Of a query: declares that it keeps in memory what it loads, with [`Cx::cached`]; otherwise that breaks the
    /// invocation. It hears what changes in its domain from those that commit.
    #[must_use]
    pub fn caches(self) -> Self {
        self.with(|spec| spec.caches = true)
    }

    /// Declares something that is made once at start and read with [`Cx::resource`].
    #[must_use]
    pub fn needs<T: Send + Sync + 'static>(mut self, make: fn(&Env) -> anyhow::Result<T>) -> Self {
        self.resources.push(Arc::new(move |env, resources| {
            // Functions of one process share it.
            if let std::collections::hash_map::Entry::Vacant(place) = resources.entry(TypeId::of::<T>()) {
                place.insert(Arc::new(make(env)?));
            }
            Ok(())
        }));
        self
    }

    /// With CONCURRENCY and BATCH_MAX of the configuration.
    #[must_use]
    pub fn tuned(self, config: &Config) -> Self {
        let spec = &self.spec;
        let lanes = config.concurrency.unwrap_or(spec.lanes).max(1);
        // A function of single messages stays one.
        let batch = if spec.batch == 1 { 1 } else { config.batch_max.unwrap_or(spec.batch).max(1) };
        self.lanes(lanes, batch)
    }

    /// A command that was written by hand: its shape is checked, and where it goes follows from what it says.
    pub(crate) fn address(&self, body: &[u8]) -> Result<Addressed> {
        match &self.work {
            Work::Batch(work) => work.address(body),
            _ => Err(Refused::malformed(format!("{} takes no commands", self.spec.name)).into()),
        }
    }

    /// What is known of it without running it.
    pub fn spec(&self) -> &Arc<Spec> {
        &self.spec
    }

    fn with(mut self, change: impl FnOnce(&mut Spec)) -> Self {
        // Declarations come before the first clone, so there is no other owner.
        if let Some(spec) = Arc::get_mut(&mut self.spec) {
            change(spec);
        }
        self
    }
}
