//! Router: turns decoded batches into routed ones and keeps the positions, watermarks and accounts of a cell's inputs.
//!
//! Pure: the monotonic clock comes in as an argument and serves idleness alone.

use crate::event::{
    DecodedBatch, EventTime, Outage, Outside, PartitionId, PositionDelta, PositionGap, Positions, RoutedBatch,
    StreamAccount, StreamId, Track, Watermark, home_of, key_group, lane_of, partition_of,
};
use crate::invariant;
use crate::route::{Guard, StreamTime};
use std::collections::{BTreeMap, BTreeSet};

/// What the router must know about one stream.
#[derive(Clone, Debug)]
pub struct RoutedStream {
    pub time: StreamTime,
    /// Some sample is made from this stream.
    pub is_anchor: bool,
    /// Number of key sets of the stream, and which of them decide about lanes.
    pub key_sets: usize,
    pub routing_sets: BTreeSet<usize>,
    /// The partitions that carry it.
    pub partitions: Vec<PartitionId>,
    /// Where its rows have to lie; `None` where one process reads them all.
    pub placed: Option<Placed>,
    /// Of label streams.
    pub guard: Option<Guard>,
}

/// The oldest outages are forgotten beyond so many: their rows lie in files.
const OUTAGES_MAX: usize = 1_000;

/// Rows lie in the partition, of so many, that the declared partitioner gives a key set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    pub key_set: usize,
    pub partitions: u32,
}

#[derive(Clone, Copy, Debug)]
struct TrackState {
    newest: EventTime,
    /// Monotonic time of the last record.
    moved_at_ms: u64,
    caught_up: bool,
    /// Out of sight since it was caught up.
    unseen: bool,
    ended: bool,
}

pub struct Router {
    streams: Vec<RoutedStream>,
    lanes: usize,
    tracks: BTreeMap<(StreamId, PartitionId), TrackState>,
    positions: Positions,
    accounts: Vec<StreamAccount>,
    watermark: EventTime,
    /// When all inputs fell idle (monotonic) and where the watermark and the online instant stood then.
    idle_since: Option<(u64, EventTime, EventTime)>,
    /// Where the last idle advance left the online instant.
    idle_instant: EventTime,
    /// What the other cells say.
    outside: Outside,
    /// Oldest first.
    outages: Vec<Outage>,
}

impl Router {
    pub fn new(streams: Vec<RoutedStream>, lanes: usize, now_ms: u64) -> Self {
        let state = TrackState { newest: i64::MIN, moved_at_ms: now_ms, caught_up: false, unseen: false, ended: false };
        let tracks = streams.iter().enumerate().flat_map(|(stream, spec)| {
            spec.partitions.iter().map(move |partition| ((stream as StreamId, *partition), state))
        });
        Router {
            tracks: tracks.collect(),
            accounts: vec![StreamAccount::default(); streams.len()],
            streams,
            lanes,
            positions: Positions::default(),
            watermark: i64::MIN,
            idle_since: None,
            idle_instant: i64::MIN,
            outside: Outside::default(),
            outages: Vec::new(),
        }
    }

    /// Takes up where a manifest left off.
    pub fn restore(
        &mut self,
        positions: Positions,
        tracks: &[Track],
        watermark: EventTime,
        accounts: &[StreamAccount],
        outages: Vec<Outage>,
    ) {
        self.positions = positions;
        self.watermark = watermark;
        self.outages = outages;
        for track in tracks {
            if let Some(state) = self.tracks.get_mut(&(track.stream, track.partition)) {
                state.newest = track.newest;
            }
        }
        for (mine, theirs) in self.accounts.iter_mut().zip(accounts) {
            *mine = *theirs;
        }
    }

    /// This process did not look for so long: what came meanwhile waits, and was nobody's silence.
    pub fn looked_away(&mut self, for_ms: u64, now_ms: u64) {
        self.tracks.values_mut().for_each(|state| state.moved_at_ms = (state.moved_at_ms + for_ms).min(now_ms));
        if let Some((since, ..)) = &mut self.idle_since {
            *since = (*since + for_ms).min(now_ms);
        }
    }

    /// Takes what the other cells say about time.
    pub fn heed(&mut self, outside: Outside) {
        self.outside = outside;
    }

    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// The cell's watermark: how far it has come, whether or not the inputs have ended.
    pub fn watermark(&self) -> EventTime {
        self.watermark
    }

    pub fn accounts(&self) -> &[StreamAccount] {
        &self.accounts
    }

    pub fn tracks(&self) -> Vec<Track> {
        let tracks = self.tracks.iter().map(|((stream, partition), state)| Track {
            stream: *stream,
            partition: *partition,
            newest: state.newest,
        });
        tracks.collect()
    }

    /// Takes the partition's step; every batch of records goes through here once, before its streams are routed.
    pub fn step(&mut self, delta: PositionDelta, now_ms: u64) -> Result<(), PositionGap> {
        self.positions.apply(delta)?;
        for ((_, partition), state) in &mut self.tracks {
            if *partition == delta.partition {
                state.moved_at_ms = now_ms;
                state.caught_up = false;
            }
        }
        Ok(())
    }

    pub fn caught_up(&mut self, partition: PartitionId, now_ms: u64) {
        self.for_partition(partition, |state| {
            state.caught_up = true;
            // Its silence begins anew: those who write may have been cut off as well.
            if std::mem::take(&mut state.unseen) {
                state.moved_at_ms = now_ms;
            }
        });
    }

    /// Nobody knows whether the partition has gone on: it is not idle.
    pub fn out_of_sight(&mut self, partition: PartitionId) {
        self.for_partition(partition, |state| (state.caught_up, state.unseen) = (false, true));
    }

    pub fn ended(&mut self, partition: PartitionId) {
        self.for_partition(partition, |state| state.ended = true);
    }

    fn for_partition(&mut self, partition: PartitionId, change: impl Fn(&mut TrackState)) {
        self.tracks.iter_mut().filter(|((_, other), _)| *other == partition).for_each(|(_, state)| change(state));
    }

    pub fn partitions(&self) -> BTreeSet<PartitionId> {
        self.tracks.keys().map(|(_, partition)| *partition).collect()
    }

    pub fn all_ended(&self) -> bool {
        self.tracks.values().all(|state| state.ended)
    }

    /// The first row of a batch that the declared partitioner would not have put into its partition, where that matters:
    /// what belongs together would not meet.
    pub fn misplaced(&self, decoded: &DecodedBatch) -> Option<usize> {
        let placed = self.streams[decoded.stream as usize].placed?;
        let homes = decoded.keys[placed.key_set].iter().map(|print| home_of(*print));
        let partition = decoded.delta.partition.partition;
        homes.map(|home| partition_of(home, placed.partitions)).position(|found| found != partition)
    }

    /// Judges lateness row by row, in log order, and deals the rows out to lanes.
    /// `rejected` is the number of rows that went to dead letters.
    pub fn route(&mut self, decoded: DecodedBatch, rejected: u64) -> RoutedBatch {
        let stream = &self.streams[decoded.stream as usize];
        let account = &mut self.accounts[decoded.stream as usize];
        *account += StreamAccount {
            records: decoded.records,
            consumed: decoded.consumed,
            filtered: decoded.filtered,
            dead_lettered: rejected,
            accepted: decoded.num_rows() as u64,
        };
        invariant!(F1, account.balances(), "stream {}: {account:?}", decoded.stream);
        let state = self
            .tracks
            .get_mut(&(decoded.stream, decoded.delta.partition))
            .expect("every partition that carries a stream has a track");
        let mut late = Vec::new();
        let mut newest = state.newest;
        for (row, &ts) in decoded.event_time.iter().enumerate() {
            newest = newest.max(ts);
            // After an idle advance the cell's watermark may be ahead of the partition's: what it closed stays closed.
            let watermark = newest.saturating_sub(stream.time.lateness_ms).max(self.watermark);
            if ts < watermark {
                late.push((row as u32, watermark));
            }
        }
        state.newest = newest;
        let lanes = (0..stream.key_sets)
            .map(|set| stream.routing_sets.contains(&set).then(|| deal(&decoded.keys[set], self.lanes)));
        RoutedBatch { late, watermark: self.watermark, lanes: lanes.collect(), decoded }
    }

    /// The watermark that holds now; it never goes back (F13).
    pub fn advance(&mut self, now_ms: u64) -> (Watermark, bool) {
        let lows = self.lows(now_ms);
        let active = !lows.is_empty();
        if self.all_ended() {
            // Not kept: files may grow, and then their own times go on judging.
            return (Watermark::MAX, false);
        }
        let tagged: BTreeMap<StreamId, EventTime> = self
            .cut_off(&lows, now_ms)
            .filter(|(stream, _)| self.streams[*stream as usize].guard.is_some_and(|guard| guard.tag))
            .collect();
        let low = lows.iter().filter(|(stream, _)| !tagged.contains_key(stream)).map(|(_, low)| *low).min();
        match low {
            Some(low) => {
                self.idle_since = None;
                let before = self.watermark;
                self.watermark = self.watermark.max(low);
                self.note_outages(&tagged, before);
            }
            None => {
                self.advance_idle(now_ms);
                self.follow(now_ms);
            }
        }
        (Watermark(self.watermark), !active)
    }

    /// How far each stream has come that is neither idle nor at its end.
    fn lows(&self, now_ms: u64) -> BTreeMap<StreamId, EventTime> {
        let mut lows: BTreeMap<StreamId, EventTime> = BTreeMap::new();
        for (&(stream, _), state) in &self.tracks {
            if !state.ended && !self.is_idle(stream, state, now_ms) {
                let watermark = self.watermark_of(stream, state);
                lows.entry(stream).and_modify(|low| *low = watermark.min(*low)).or_insert(watermark);
            }
        }
        lows
    }

    fn watermark_of(&self, stream: StreamId, state: &TrackState) -> EventTime {
        state.newest.saturating_sub(self.streams[stream as usize].time.lateness_ms)
    }

    /// The label streams that are cut off, and how far they have come.
    fn cut_off(
        &self,
        lows: &BTreeMap<StreamId, EventTime>,
        now_ms: u64,
    ) -> impl Iterator<Item = (StreamId, EventTime)> {
        let anchors = lows.iter().filter(|(stream, _)| self.streams[**stream as usize].is_anchor);
        let shown = anchors.map(|(_, low)| *low).min().unwrap_or(EventTime::MIN);
        let is_cut_off = move |stream: StreamId, low: EventTime| {
            let Some(guard) = self.streams[stream as usize].guard else { return false };
            // One that never said anything may only be slow to begin.
            let silent = |state: &TrackState| now_ms.saturating_sub(state.moved_at_ms) >= guard.max_lag_ms as u64;
            let behind = |state: &TrackState| shown.saturating_sub(self.watermark_of(stream, state)) > guard.max_lag_ms;
            let nothing_to_read = |state: &TrackState| {
                state.ended || ((state.caught_up || state.unseen) && (state.newest > i64::MIN || silent(state)))
            };
            shown.saturating_sub(low) > guard.max_lag_ms
                && self
                    .tracks
                    .iter()
                    .all(|((other, _), state)| *other != stream || !behind(state) || nothing_to_read(state))
        };
        lows.iter().map(|(stream, low)| (*stream, *low)).filter(move |(stream, low)| is_cut_off(*stream, *low))
    }

    /// Time went on from `before` without these streams.
    fn note_outages(&mut self, cut_off: &BTreeMap<StreamId, EventTime>, before: EventTime) {
        for (&stream, &from) in cut_off {
            let last = self.outages.iter_mut().rev().find(|outage| outage.stream == stream);
            match last.filter(|outage| outage.to >= before) {
                Some(outage) => outage.to = self.watermark,
                None if self.watermark > from => self.outages.push(Outage { stream, from, to: self.watermark }),
                None => {}
            }
        }
        let surplus = self.outages.len().saturating_sub(OUTAGES_MAX);
        self.outages.drain(..surplus);
    }

    /// The times that passed while label streams were cut off.
    pub fn outages(&self) -> &[Outage] {
        &self.outages
    }

    pub fn guard(&self, stream: StreamId) -> Option<Guard> {
        self.streams[stream as usize].guard
    }

    /// Label streams that are cut off: for people to see.
    pub fn streams_cut_off(&self, now_ms: u64) -> BTreeSet<StreamId> {
        let lows = self.lows(now_ms);
        self.cut_off(&lows, now_ms).map(|(stream, _)| stream).collect()
    }

    /// All inputs are idle: time goes on at the rate of the monotonic clock, from where it stood.
    fn advance_idle(&mut self, now_ms: u64) {
        let newest = self.tracks.values().map(|state| state.newest).max().unwrap_or(i64::MIN);
        // Also where nothing ever came, once others have said what time it is: else two such cells wait for each other.
        if newest == i64::MIN && self.watermark == i64::MIN {
            return;
        }
        let instant = newest.max(self.idle_instant);
        let (since, at, instant) = *self.idle_since.get_or_insert_with(|| {
            let low = |with_ended: bool| {
                let known =
                    self.tracks.iter().filter(|(_, state)| state.newest > i64::MIN && (with_ended || !state.ended));
                known.map(|(&(stream, _), state)| state.newest - self.streams[stream as usize].time.lateness_ms).min()
            };
            // Where nothing that is open has a time yet, that of the inputs that have ended is all there is.
            (now_ms, self.watermark.max(low(false).or_else(|| low(true)).unwrap_or(i64::MIN)), instant)
        });
        let idle_for = now_ms.saturating_sub(since) as i64;
        if newest > i64::MIN {
            self.idle_instant = instant.saturating_add(idle_for);
        }
        self.watermark = self.watermark.max(at.saturating_add(idle_for));
    }

    /// While all is quiet here, time is at least where the others are, and goes on from there.
    fn follow(&mut self, now_ms: u64) {
        if let Some(watermark) = self.outside.watermark.filter(|outside| *outside > self.watermark) {
            self.watermark = watermark;
            self.idle_since = None;
            self.advance_idle(now_ms);
        }
    }

    fn is_quiet(&self, state: &TrackState, idle_after_ms: i64, now_ms: u64) -> bool {
        state.ended || (state.caught_up && now_ms.saturating_sub(state.moved_at_ms) >= idle_after_ms as u64)
    }

    fn stream_is_quiet(&self, stream: StreamId, now_ms: u64) -> bool {
        let idle_after = self.streams[stream as usize].time.idle_after_ms;
        let mut tracks = self.tracks.iter().filter(|((other, _), _)| *other == stream);
        tracks.all(|(_, state)| self.is_quiet(state, idle_after, now_ms))
    }

    /// A quiet partition is idle when another partition of its stream moves, when the anchors are quiet too, or when the
    /// stream is declared sparse. A label stream that is quiet as a whole while impressions move holds the watermark.
    fn is_idle(&self, stream: StreamId, state: &TrackState, now_ms: u64) -> bool {
        let spec = &self.streams[stream as usize];
        if !self.is_quiet(state, spec.time.idle_after_ms, now_ms) {
            return false;
        }
        let anchors_quiet = || {
            let anchors = self.streams.iter().enumerate().filter(|(_, spec)| spec.is_anchor);
            anchors.map(|(anchor, _)| anchor as StreamId).all(|anchor| self.stream_is_quiet(anchor, now_ms))
        };
        let idle_after = spec.time.idle_after_ms as u64;
        let moves_elsewhere =
            self.outside.moved_at_ms.get(&stream).is_some_and(|at| now_ms.saturating_sub(*at) < idle_after);
        spec.is_anchor
            || spec.time.sparse
            || moves_elsewhere
            || !self.stream_is_quiet(stream, now_ms)
            || anchors_quiet()
    }

    /// The instant at which online features are read: the newest event time, advanced while all inputs are idle, which
    /// it never takes back; one `head_ms` past the newest event once all inputs have ended, so that every event is visible.
    pub fn online_instant(&self, head_ms: i64) -> Option<EventTime> {
        let newest = self.tracks.values().map(|state| state.newest).max().filter(|newest| *newest > i64::MIN)?;
        Some(if self.all_ended() { newest + head_ms } else { newest.max(self.idle_instant) })
    }

    /// Streams that hold the watermark back although they are quiet: for people to see.
    pub fn holding(&self, now_ms: u64) -> Vec<StreamId> {
        let held = self.tracks.iter().filter(|((stream, _), state)| {
            let stream = *stream;
            !state.ended
                && self.is_quiet(state, self.streams[stream as usize].time.idle_after_ms, now_ms)
                && !self.is_idle(stream, state, now_ms)
        });
        let streams: BTreeSet<StreamId> = held.map(|((stream, _), _)| *stream).collect();
        streams.into_iter().collect()
    }

    /// Where a stream stands: its watermark (the lowest of its partitions that are neither idle nor ended), the newest
    /// event time, and how many partitions are idle.
    pub fn progress(&self, stream: StreamId, now_ms: u64) -> (Watermark, Option<EventTime>, usize) {
        let lateness = self.streams[stream as usize].time.lateness_ms;
        let tracks = || self.tracks.iter().filter(|((other, _), _)| *other == stream).map(|(_, state)| state);
        let idle = |state: &TrackState| self.is_idle(stream, state, now_ms);
        let active = tracks().filter(|state| !state.ended && !idle(state));
        let watermark = active.map(|state| state.newest.saturating_sub(lateness)).min().unwrap_or(i64::MAX);
        let newest = tracks().map(|state| state.newest).max().filter(|newest| *newest > i64::MIN);
        (Watermark(watermark), newest, tracks().filter(|state| !state.ended && idle(state)).count())
    }

    /// Records that a stream's partitions have still to give, where their ends are known.
    pub fn position_lag(&self, stream: StreamId, end: impl Fn(PartitionId) -> Option<i64>) -> Option<u64> {
        let partitions = self.streams[stream as usize].partitions.iter();
        let known = partitions.filter_map(|at| Some((end(*at)? - self.positions.next(*at)?).max(0) as u64));
        known.fold(None, |sum, lag| Some(sum.unwrap_or(0) + lag))
    }

    /// The partitions that carry a stream.
    pub fn partitions_of(&self, stream: StreamId) -> impl Iterator<Item = PartitionId> + '_ {
        self.streams[stream as usize].partitions.iter().copied()
    }

    /// Partitions that ran too far ahead of the slowest one that still has records to give; never the slowest itself.
    pub fn too_far_ahead(&self) -> BTreeSet<PartitionId> {
        let readable = self.tracks.iter().filter(|(_, state)| !state.ended && !state.caught_up);
        let Some(slowest) = readable.map(|(_, state)| state.newest).min() else { return BTreeSet::new() };
        let ahead = self.tracks.iter().filter(|((stream, _), state)| {
            let drift = self.streams[*stream as usize].time.max_drift_ms;
            !state.ended && state.newest > slowest.saturating_add(drift)
        });
        ahead.map(|((_, partition), _)| *partition).collect()
    }
}

/// Row numbers per lane, by key group.
fn deal(fingerprints: &[u128], lanes: usize) -> Vec<Vec<u32>> {
    if lanes == 1 {
        return vec![(0..fingerprints.len() as u32).collect()];
    }
    let mut rows = vec![Vec::with_capacity(fingerprints.len() / lanes + fingerprints.len() / 8 + 8); lanes];
    for (row, fingerprint) in fingerprints.iter().enumerate() {
        rows[lane_of(key_group(home_of(*fingerprint)), lanes)].push(row as u32);
    }
    rows
}
