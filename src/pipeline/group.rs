//! Group: the cells of one process among several: starts those that are its own, and lets the others go.
//!
//!   consumer group ── Assigned {1, 4} ──> this process: cell 1, cell 4     each a run of its own, with its own chain
//!                                            └ exchange: what all cells of all processes tell each other
//!
//! In: a checked plan with `group_mode`. Out: the same samples as one process would give, from any number of them.
//! Holds: a cell goes on until the group has given it to somebody else, or its chain was claimed: the group is a hint,
//! the chain decides. No chain is claimed but with a seat: a process that slept through a takeover takes nothing back. A
//! cell that fails is tried again while the others go on.
//! Does not: move state: whoever claims a chain reads it where it lies.

use crate::cell::{CellScope, Mirror};
use crate::commit::ChainError;
use crate::config::Plan;
use crate::env::{Store, StoreError};
use crate::online::{OnlineWriter, WriterLimits};
use crate::pipeline::build::exchanged_groups;
use crate::pipeline::exchange::{Exchange, KafkaExchange};
use crate::pipeline::generation::Generation;
use crate::pipeline::start::{RunOptions, World, open, run};
use crate::pipeline::{Board, Dimensions, Failure, Phase, RunError, StopSignal};
use crate::source::kafka::{GroupMember, MemberEvent, MemberOptions, ensure_topic};
use crate::source::{GroupModeSpec, InputKind, SourceError};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long one look at the group waits.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
const BACKOFF_MIN_MS: u64 = 500;
const BACKOFF_MAX_MS: u64 = 30_000;
/// A cell that was taken over waits so long for a word from the group: two heartbeats, so that a process that lost its
/// seat has heard of it.
const TAKEN_OVER_MS: u64 = 6_000;
/// How often the board and monitoring are brought up to date.
const TELL_EVERY_MS: u64 = 500;
/// The internal topic is kept for so long beside twice the longest window.
const KEEP_MS: i64 = 24 * 3_600_000;
/// How long the end of a run waits for the online store to take what is left.
const ONLINE_FLUSH_MAX: Duration = Duration::from_secs(30);

/// Runs this process's share of the plan until a stop is requested, or until it cannot be a member any more.
pub fn run_group(plan: Arc<Plan>, options: RunOptions, world: World) -> Result<(), RunError> {
    let spec = plan.group_mode.clone().ok_or_else(|| RunError::Unsupported("group_mode is not declared".into()))?;
    let state = open(&plan.state.path, &world)?;
    if options.fresh {
        forget(state.as_ref())?;
    }
    let started_ms = world.clock.monotonic_ms();
    world.board.update(|view| {
        (view.started_ms, view.now_ms, view.phase) = (started_ms, started_ms, Phase::Connecting);
    });
    // One set for all cells.
    let Some(dimensions) = Dimensions::of_run(&plan, &world)? else { return Ok(()) };
    let world = World { dimensions: Some(dimensions), ..world };
    let failure = Failure::new(world.stop.clone());
    let resets = RefCell::new((options.resets, BTreeSet::new()));
    let group = Group { plan, spec, state, world: &world, failure: &failure, resets };
    let result = group.run();
    world.board.update(|view| view.phase = Phase::Ended);
    // What stopped everything is the reason; what it stopped is its echo.
    failure.take().map_or(result, Err)
}

/// Forgets all cells. The files that say what they agreed on go last: a process that starts meanwhile finds the old
/// chains or none.
fn forget(state: &dyn Store) -> Result<(), StoreError> {
    let objects = state.list("")?;
    let (agreed, others): (Vec<_>, Vec<_>) =
        objects.into_iter().partition(|object| object.path.starts_with("generations/"));
    others.into_iter().chain(agreed).try_for_each(|object| state.delete(&object.path))
}

struct Group<'a> {
    plan: Arc<Plan>,
    spec: GroupModeSpec,
    state: Arc<dyn Store>,
    world: &'a World,
    failure: &'a Failure,
    /// Nodes whose state is forgotten, and the cells that have forgotten it: each does so once.
    resets: RefCell<(BTreeSet<String>, BTreeSet<u32>)>,
}

/// A cell that runs here, or is to run here.
struct Cell {
    stop: StopSignal,
    board: Board,
    thread: Option<JoinHandle<Result<(), RunError>>>,
    /// Whether the group says that it is ours.
    wanted: bool,
    started_ms: u64,
    retry_at_ms: u64,
    backoff_ms: u64,
    problem: Option<String>,
}

/// How a cell ended.
enum Ended {
    /// It was told to.
    Stopped,
    TakenOver,
    Failed,
}

/// Our place in the group, as far as it is known.
#[derive(Default)]
struct Seat {
    /// Cells are ours to start.
    taken: bool,
    problem: Option<String>,
}

impl Cell {
    fn new() -> Cell {
        Cell {
            stop: StopSignal::default(),
            board: Board::default(),
            thread: None,
            wanted: true,
            started_ms: 0,
            retry_at_ms: 0,
            backoff_ms: BACKOFF_MIN_MS,
            problem: None,
        }
    }
}

impl Group<'_> {
    fn run(&self) -> Result<(), RunError> {
        let Some(mut member) = self.join()? else { return Ok(()) };
        let count = member.partition_count();
        let generation = Generation::agree(&self.plan, self.state.as_ref(), count, self.world.entropy.as_ref())?;
        if self.retry(|| self.ensure_topic(&generation))?.is_none() {
            return Ok(());
        }
        self.world.online.watch(self.world.entropy.random_u64());
        let online =
            OnlineWriter::start(self.world.online.clone(), WriterLimits::default(), self.world.entropy.random_u64())
                .map_err(|source| RunError::Spawn { name: "online".into(), source })?;
        self.world.board.update(|view| view.online = Some(online.stats()));
        let groups: Vec<_> = self.plan.groups.iter().cloned().map(Arc::new).collect();
        let mirror = Arc::new(Mirror::new(count, &groups, &exchanged_groups(&self.plan)));
        // It goes on while cells end: they tell the others of their last commit.
        let done = StopSignal::default();
        let exchange = Arc::new(KafkaExchange::new(
            &self.plan,
            &self.spec.connection,
            generation.topic(),
            mirror,
            online.sender(),
            self.world.stop.clone(),
            done.clone(),
        ));
        let (reader, clock, flush_ms) =
            (exchange.clone(), self.world.clock.clone(), self.plan.online.flush_ms.max(1) as u64);
        let reading = self.failure.spawn("exchange", move || reader.run(clock.as_ref(), flush_ms));
        let mut cells = BTreeMap::new();
        let result = self.attend(&mut member, &generation, &exchange, &mut cells);
        for cell in cells.values() {
            cell.stop.request();
        }
        for (number, cell) in &mut cells {
            self.end(*number, cell, exchange.as_ref());
        }
        done.request();
        member.leave();
        // A thread's panic is the failure already.
        let _ = reading.join();
        drop(exchange);
        if online.stop(ONLINE_FLUSH_MAX).is_err() {
            tracing::warn!("not every feature reached the online store; they are written again at the next start");
        }
        result
    }

    /// Asks until a broker answers; `None` when a stop was requested.
    fn retry<T>(&self, mut ask: impl FnMut() -> Result<T, SourceError>) -> Result<Option<T>, RunError> {
        let mut backoff = Duration::from_millis(BACKOFF_MIN_MS);
        loop {
            match ask() {
                Ok(answer) => {
                    self.world.board.update(|view| view.connection_problem = None);
                    return Ok(Some(answer));
                }
                Err(error) if error.retry() => {
                    tracing::warn!("{error}; trying again in {:.1} s", backoff.as_secs_f64());
                    self.world.board.update(|view| view.connection_problem = Some(error.to_string()));
                    if self.world.stop.wait(backoff) {
                        return Ok(None);
                    }
                    backoff = (backoff * 2).min(Duration::from_millis(BACKOFF_MAX_MS));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn join(&self) -> Result<Option<GroupMember>, RunError> {
        let topics = self.plan.inputs.iter().filter_map(|input| match &input.kind {
            InputKind::Kafka(topic) => Some(topic.topic.clone()),
            _ => None,
        });
        let topics: BTreeSet<String> = topics.collect();
        let topics: Vec<String> = topics.into_iter().collect();
        let options = || MemberOptions {
            group_id: self.spec.group_id.clone(),
            instance_id: Some(self.spec.instance_id.clone()),
            session_timeout_ms: self.spec.session_timeout_ms as u32,
            client_id: format!("conjoin-{}-{}", self.plan.pipeline, self.spec.instance_id),
            connect_timeout: Duration::from_secs(10),
        };
        self.retry(|| GroupMember::join(&self.spec.connection, &topics, options()))
    }

    fn ensure_topic(&self, generation: &Generation) -> Result<(), SourceError> {
        let longest = self.plan.groups.iter().map(|group| group.longest_window_ms()).max().unwrap_or(0);
        let keep = (2 * longest + KEEP_MS).to_string();
        let configs = [("cleanup.policy", "delete"), ("retention.ms", keep.as_str())];
        let cells = generation.cells.unwrap_or(1);
        ensure_topic(&self.spec.connection, &generation.topic(), cells, &configs, self.spec.replication)
    }

    /// Follows the group until a stop is requested.
    fn attend(
        &self,
        member: &mut GroupMember,
        generation: &Generation,
        exchange: &Arc<KafkaExchange>,
        cells: &mut BTreeMap<u32, Cell>,
    ) -> Result<(), RunError> {
        let (mut seat, mut told_ms) = (Seat::default(), 0);
        while !self.world.stop.requested() {
            match member.poll(POLL_TIMEOUT) {
                Ok(None) => {}
                Ok(Some(event)) => self.heed(event, &mut seat, cells),
                Err(error) if error.retry() => {
                    let message = format!("{error}; joining anew");
                    self.heed(MemberEvent::Lost { message }, &mut seat, cells);
                    let Some(joined) = self.join()? else { return Ok(()) };
                    let (state, entropy) = (self.state.as_ref(), self.world.entropy.as_ref());
                    Generation::agree(&self.plan, state, joined.partition_count(), entropy)?;
                    *member = joined;
                }
                Err(error) => return Err(error.into()),
            }
            let now = self.world.clock.monotonic_ms();
            self.settle(generation, now, &seat, exchange, cells);
            if now >= told_ms + TELL_EVERY_MS {
                told_ms = now;
                self.tell(now, &seat, member, cells);
            }
        }
        Ok(())
    }

    fn heed(&self, event: MemberEvent, seat: &mut Seat, cells: &mut BTreeMap<u32, Cell>) {
        match event {
            MemberEvent::Assigned(ours) => {
                tracing::info!(cells = ?ours, "the group gave this process these cells");
                cells.iter_mut().for_each(|(number, cell)| cell.wanted = ours.contains(number));
                for number in &ours {
                    let cell = cells.entry(*number).or_insert_with(Cell::new);
                    // Whoever had taken it over has it no more.
                    if cell.problem.is_none() {
                        cell.retry_at_ms = 0;
                    }
                }
                *seat = Seat { taken: true, problem: None };
                self.world.board.update(|view| view.phase = Phase::Running);
            }
            MemberEvent::Revoked => tracing::info!("the group assigns anew; what runs goes on meanwhile"),
            MemberEvent::Lost { message } => {
                tracing::warn!("{message}");
                *seat = Seat { taken: false, problem: Some(message) };
            }
            MemberEvent::Connection { ready: true, message } => {
                tracing::info!("{message}");
                if seat.taken {
                    seat.problem = None;
                }
            }
            MemberEvent::Connection { ready: false, message } => {
                tracing::warn!("{message}");
                seat.problem = Some(message);
            }
        }
    }

    /// Starts what is ours and does not run, stops what is not ours and does.
    fn settle(
        &self,
        generation: &Generation,
        now: u64,
        seat: &Seat,
        exchange: &Arc<KafkaExchange>,
        cells: &mut BTreeMap<u32, Cell>,
    ) {
        for (number, cell) in cells.iter_mut() {
            if !cell.wanted {
                cell.stop.request();
            }
            if cell.thread.as_ref().is_some_and(JoinHandle::is_finished) {
                let wait_ms = match self.end(*number, cell, exchange.as_ref()) {
                    Ended::Stopped => 0,
                    Ended::TakenOver => TAKEN_OVER_MS,
                    Ended::Failed => {
                        let longer = (cell.backoff_ms * 2).min(BACKOFF_MAX_MS);
                        std::mem::replace(&mut cell.backoff_ms, longer)
                    }
                };
                cell.retry_at_ms = now + wait_ms;
            }
            if cell.thread.is_none() && cell.wanted && seat.taken && now >= cell.retry_at_ms {
                cell.started_ms = now;
                self.start(*number, generation, cell, exchange);
            }
            // Longer than it would have been waited for.
            if cell.thread.is_some() && now >= cell.started_ms + cell.backoff_ms {
                (cell.problem, cell.backoff_ms) = (None, BACKOFF_MIN_MS);
            }
        }
        cells.retain(|_, cell| cell.wanted || cell.thread.is_some());
    }

    fn start(&self, number: u32, generation: &Generation, cell: &mut Cell, exchange: &Arc<KafkaExchange>) {
        (cell.stop, cell.board) = (StopSignal::default(), Board::default());
        let mut plan = Plan::clone(&self.plan);
        plan.state.path = generation.cell(&self.plan.state.path, number);
        let scope = CellScope { cell: number, cells: generation.cells.unwrap_or(1) };
        let world = World {
            clock: self.world.clock.clone(),
            entropy: self.world.entropy.clone(),
            online: self.world.online.clone(),
            telemetry: Arc::new(self.world.telemetry.of_cell(number)),
            board: cell.board.clone(),
            stop: cell.stop.clone(),
            exchange: Some(exchange.clone()),
            memory: self.world.memory.clone(),
            dimensions: self.world.dimensions.clone(),
        };
        let (resets, done) = &mut *self.resets.borrow_mut();
        let resets = if done.insert(number) { resets.clone() } else { BTreeSet::new() };
        let options = RunOptions { scope, resets, ..RunOptions::default() };
        let body = move || run(Arc::new(plan), options, world).map(drop);
        match std::thread::Builder::new().name(format!("cell-{number}")).spawn(body) {
            Ok(thread) => cell.thread = Some(thread),
            Err(source) => self.failure.set(RunError::Spawn { name: format!("cell-{number}"), source }),
        }
    }

    /// Takes note of how a cell ended.
    fn end(&self, number: u32, cell: &mut Cell, exchange: &dyn Exchange) -> Ended {
        let Some(thread) = cell.thread.take() else { return Ended::Stopped };
        exchange.disown(number);
        self.world.telemetry.forget_cell(number);
        let panicked = || RunError::Panic { name: format!("cell-{number}"), message: "see the log".into() };
        cell.problem = None;
        match thread.join().unwrap_or_else(|_| Err(panicked())) {
            Ok(()) => Ended::Stopped,
            Err(error @ RunError::Chain(ChainError::Fenced { .. })) => {
                tracing::info!("cell {number}: {error}");
                Ended::TakenOver
            }
            // No cell of this process will fare better.
            Err(error @ (RunError::Chain(ChainError::Refused(_)) | RunError::Moved)) => {
                self.failure.set(error);
                Ended::Failed
            }
            Err(error) => {
                tracing::error!("cell {number} stopped: {error}");
                cell.problem = Some(format!("cell {number}: {error}"));
                Ended::Failed
            }
        }
    }

    /// The board of the process is the sum of its cells.
    fn tell(&self, now: u64, seat: &Seat, member: &mut GroupMember, cells: &BTreeMap<u32, Cell>) {
        let views: Vec<_> = cells.values().filter(|cell| cell.thread.is_some()).map(|cell| cell.board.view()).collect();
        let positions = views.iter().flat_map(|view| &view.committed);
        if seat.taken {
            let place = |(topic, number, next): &(String, u32, i64)| ((topic.clone(), *number), *next);
            member.commit_for_monitoring(&positions.map(place).collect());
        }
        let failed = cells.values().filter(|cell| cell.problem.is_some()).count();
        self.world.telemetry.cells(views.len(), failed);
        if let Some(dimensions) = &self.world.dimensions {
            dimensions.tell(&self.world.telemetry, now);
        }
        let of_cell = cells.values().find_map(|cell| cell.problem.clone());
        let of_input = || views.iter().find_map(|view| view.connection_problem.clone());
        let problem = seat.problem.clone().or(of_cell).or_else(of_input);
        self.world.board.update(|view| {
            view.now_ms = now;
            view.sum_of(&views);
            view.connection_problem = problem;
        });
    }
}
