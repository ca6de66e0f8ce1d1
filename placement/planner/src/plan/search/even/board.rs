//! All cells as a search looks at them: by cell for a look at all dimensions, and by dimension for a glance at all cells.

use super::excess::{Change, Inverse, Stand, Weight, excess, positive};
use crate::fleet::CellIx;
use crate::layout::Layout;
use crate::load::single;
use crate::resource::{DIMS, HOURS, RESOURCES, Resource};

/// One dimension of all cells.
#[derive(Clone)]
struct Column {
    mean: Vec<f32>,
    variance: Vec<f32>,
    share: Vec<f32>,
}

pub(super) struct Board {
    risk: f64,
    stands: Vec<Stand>,
    columns: Vec<Column>,
    /// One by the budget: by cell, and by resource and cell.
    pub(super) inverse: Vec<Inverse>,
    inverses: [Vec<f32>; RESOURCES],
    /// By cell: what it is to be brought down to, and what it has above that.
    pub(super) settle: Vec<f32>,
    pub(super) excess: Vec<f32>,
}

impl Board {
    pub(super) fn of(layout: &Layout<'_>) -> Self {
        let fleet = layout.fleet();
        let cells = fleet.cells().len();
        let inverse_of = |cell: CellIx| {
            let inverse = &fleet.cell(cell).budget.inverse;
            Resource::ALL.map(|resource| single(inverse[resource.first_dim()]))
        };
        let inverse: Vec<Inverse> = fleet.cells().map(inverse_of).collect();
        let risk = layout.policy().risk;
        let stand = |cell: CellIx| Stand::of(layout.load(cell), &inverse[cell.index()], risk);
        let nothing = vec![0.0; cells];
        let column = Column { mean: nothing.clone(), variance: nothing.clone(), share: nothing.clone() };
        let mut board = Self {
            risk,
            stands: fleet.cells().map(stand).collect(),
            columns: vec![column; DIMS],
            inverses: std::array::from_fn(|resource| inverse.iter().map(|of| of[resource]).collect()),
            inverse,
            settle: nothing.clone(),
            excess: nothing,
        };
        fleet.cells().for_each(|cell| board.refresh(layout, cell));
        board
    }

    /// Who is on a cell has changed.
    pub(super) fn refresh(&mut self, layout: &Layout<'_>, cell: CellIx) {
        let at = cell.index();
        self.stands[at] = Stand::of(layout.load(cell), &self.inverse[at], self.risk);
        for (dim, column) in self.columns.iter_mut().enumerate() {
            column.mean[at] = self.stands[at].mean[dim];
            column.variance[at] = self.stands[at].variance[dim];
            column.share[at] = self.stands[at].need(dim) * self.inverse[at][dim / HOURS];
        }
        self.measure(layout, cell);
    }

    /// What a cell is to be brought down to, or who is on it, has changed.
    pub(super) fn measure(&mut self, layout: &Layout<'_>, cell: CellIx) {
        self.excess[cell.index()] = excess(layout.rough(cell), self.settle[cell.index()]);
    }

    /// By cell: by how much more it would be above its level with one tenant more, at the least. That is what the
    /// dimensions make of it in which the tenant takes the most; no other gets less.
    pub(super) fn glance(&self, weight: &Weight, more: &mut Vec<f32>) {
        more.clear();
        more.resize(self.stands.len(), 0.0);
        for (resource, &dim) in weight.heavy.iter().enumerate() {
            let (mean, own) = (weight.mean[dim], weight.deviation[dim] * weight.deviation[dim]);
            let column = &self.columns[dim];
            let cells = column.mean.iter().zip(&column.variance).zip(&column.share);
            let budgets = self.inverses[resource].iter().zip(&self.settle);
            for (more, (((of, variance), share), (inverse, settle))) in more.iter_mut().zip(cells.zip(budgets)) {
                let then = positive((of + mean + (variance + own).sqrt()) * inverse - settle);
                let now = positive(share - settle);
                *more += then * then - now * now;
            }
        }
    }

    /// A tenant as one more or less on a cell.
    pub(super) fn change<'l>(
        &self,
        layout: &'l Layout<'_>,
        cell: CellIx,
        weight: &'l Weight,
        cluster: Option<usize>,
        sign: f32,
    ) -> Change<'l> {
        let beside = cluster.map(|cluster| (layout.load(cell).cluster(cluster), single(2.0 * self.risk)));
        Change { weight, beside, sign }
    }

    pub(super) fn stand(&self, cell: CellIx) -> &Stand {
        &self.stands[cell.index()]
    }
}
