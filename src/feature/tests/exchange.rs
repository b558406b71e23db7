//! What cells seal and a store merges, against the oracle.

use super::*;

struct Cell {
    store: GroupStore,
    /// Still to come, by arrival.
    coming: Vec<Event>,
    watermark: EventTime,
    /// What a cut has written.
    blocks: Vec<StateBlock>,
    sealed: EventTime,
}

impl Cell {
    fn new(spec: &Arc<GroupSpec>, mut coming: Vec<Event>) -> Cell {
        coming.reverse();
        let store = GroupStore::outgoing(7, spec.clone());
        Cell { store, coming, watermark: -1_000, blocks: Vec::new(), sealed: -1_000 }
    }

    fn read(&mut self, spec: &GroupSpec, records: usize) {
        for _ in 0..records {
            let Some(event) = self.coming.pop() else { break };
            for (number, usage) in spec.uses.iter().enumerate() {
                if usage.stream as usize == event.stream {
                    self.store.apply(number, &batch(std::slice::from_ref(&event), event.stream), 0, &[0]);
                }
            }
        }
        self.watermark = self.coming.iter().map(|event| event.ts).min().unwrap_or(1_000).max(self.watermark);
        self.store.advance(Watermark(self.watermark), EventTime::MIN);
    }

    /// What it seals here; the rest goes to state.
    fn cut(&mut self) -> Vec<StateBlock> {
        let sealed = self.store.take_sealed(self.watermark);
        self.sealed = self.watermark;
        self.blocks.extend(self.store.snapshot());
        sealed
    }

    /// Comes back at its last cut, on another number of lanes, of which this is one.
    fn restart(&mut self, spec: &Arc<GroupSpec>) {
        let mut store = GroupStore::outgoing(7, spec.clone());
        self.blocks.iter().for_each(|block| store.restore(&block.rows, &|_| true).unwrap());
        store.forget_sealed(self.sealed);
        store.advance(Watermark(self.watermark), EventTime::MIN);
        self.store = store;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(200)))]

    /// Events are dealt out to three cells, which seal at watermarks of their own, restart in between, and hand over to one
    /// store that rolls up as far as it may: at the lowest watermark it answers by the definition, over all events.
    #[test]
    fn f8_f10_what_cells_seal_and_one_store_merges_is_what_the_definition_says(
        spec in any_spec(),
        events in events(),
        jitter in 0i64..120,
        dice in prop::collection::vec(any::<u16>(), 40..120),
    ) {
        let mut dice = Dice(dice, 0);
        let mut dealt: Vec<Vec<(i64, Event)>> = vec![Vec::new(); 3];
        for event in &events {
            let arrival = (event.ts + dice.roll(jitter + 1), event.clone());
            let cell = &mut dealt[dice.roll(3) as usize];
            cell.push(arrival.clone());
            if dice.roll(6) == 0 {
                cell.push(arrival);
            }
        }
        let mut cells: Vec<Cell> = dealt.into_iter().map(|mut events| {
            events.sort_by_key(|(at, _)| *at);
            Cell::new(&spec, events.into_iter().map(|(_, event)| event).collect())
        }).collect();
        let all: BTreeMap<u128, Event> = events.iter().map(|event| (event.id, event.clone())).collect();
        let mut merged = GroupStore::new(7, spec.clone());
        let prints: Vec<_> = (0..6u8).map(print_of).collect();
        while cells.iter().any(|cell| cell.watermark < 1_000) {
            for cell in &mut cells {
                cell.read(&spec, dice.roll(12) as usize);
                if dice.roll(3) > 0 {
                    for block in cell.cut() {
                        merged.merge(&block.rows).unwrap();
                    }
                    if dice.roll(3) == 0 {
                        cell.restart(&spec);
                    }
                }
            }
            let frontier = cells.iter().map(|cell| cell.sealed).min().unwrap();
            let values = merged.evaluate(&prints, &[frontier; 6]).unwrap();
            for entity in 0..6u8 {
                let right = expected(&spec, EventTime::MIN, &all, entity, frontier);
                prop_assert_eq!(row_text(&values, entity as usize), right, "e{} at {}", entity, frontier);
            }
            merged.advance(Watermark::MIN, frontier - dice.roll(3));
        }
        for cell in &mut cells {
            cell.cut();
            prop_assert_eq!((cell.store.entities(), cell.store.tiles()), (0, 0));
        }
    }
}
