//! Deal: lanes that are made of the state of other cells, to be written as a whole.

use crate::cell::cut::LaneRestoreError;
use crate::cell::lane::{Lane, write};
use crate::event::home_of;
use arrow::array::RecordBatch;

impl Lane {
    /// Takes the rows of a group that are in this lane's share, also of a group whose entities belong to no cell: what is
    /// not complete yet stays with one cell, which hands it over in its time.
    pub fn deal(&mut self, group: usize, rows: &RecordBatch) -> Result<(), LaneRestoreError> {
        let share = self.spec.share(self.number);
        let mine = |entity| share.contains(home_of(entity));
        write(&self.history.lanes[self.number][group]).restore(rows, &mine)?;
        Ok(())
    }

    /// The next cut writes all there is: nothing of it is on disk where this cell's objects are to lie.
    pub fn write_anew(&mut self) {
        self.joins.iter_mut().for_each(|join| join.write_anew());
        self.history.lanes[self.number].iter().for_each(|store| write(store).write_anew());
    }
}
