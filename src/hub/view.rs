//! What a set of subscribers has in common, and how an event finds the views that want it.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::Arc,
};

use slab::Slab;
use smallvec::SmallVec;

use super::stamps::Stamps;
use crate::{
    event::{EventId, Format, Label, RunId, Scope, Selection},
    journal::CommittedEvent,
    tail::{Tail, TailShape},
};

/// Which events, and how they are written: the same bytes for everybody who asks for the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ViewSpec {
    /// Which events.
    pub selection: Selection,
    /// How they are written.
    pub format: Format,
}

/// Keys of a slab. Where each run has a subscriber of its own there are many lists of one.
pub(super) type Keys = SmallVec<[u32; 4]>;

/// Whether the end of a view's history was read into its tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// Nobody needed it.
    No,
    /// A reader is at it; it reads up to here.
    Running(EventId),
    /// A reader is at it, but a run was deleted meanwhile, and may be in what it reads.
    Spoiled,
    /// It was, and whoever is behind the tail reads the journal.
    Done,
}

#[derive(Debug)]
pub(super) struct View {
    pub(super) spec: Arc<ViewSpec>,
    /// Distinguishes it from another view in the same place later.
    pub(super) generation: u32,
    pub(super) tail: Tail,
    pub(super) fill: Fill,
    /// Keys of its subscribers, in no order.
    pub(super) subscribers: Keys,
    /// The round that offers new bytes to all of them: where it stands, and how many are left. A
    /// new event starts the count again; the hand goes round and round.
    pub(super) sweep_at: u32,
    pub(super) sweep_left: u32,
    /// When the events of that round were committed.
    pub(super) stamps: Stamps,
    /// Of a view of given runs: those that have not ended.
    pub(super) unended: SmallVec<[RunId; 2]>,
}

impl View {
    /// Whether no event can come any more.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.spec.selection.scope, Scope::Runs(_)) && self.unended.is_empty()
    }
}

/// The views of a worker, found by what they are and by what they want.
#[derive(Debug, Default)]
pub(super) struct Views {
    pub(super) slab: Slab<View>,
    generation: u32,
    by_spec: HashMap<Arc<ViewSpec>, u32>,
    of_all: Keys,
    by_project: HashMap<Label, Keys>,
    by_session: HashMap<Label, Keys>,
    by_run: HashMap<RunId, Keys>,
}

impl Views {
    pub(super) fn find(&self, spec: &ViewSpec) -> Option<u32> {
        self.by_spec.get(spec).copied()
    }

    /// Makes the view of a spec that has none.
    pub(super) fn create(
        &mut self,
        spec: ViewSpec,
        shape: TailShape,
        seen: EventId,
        unended: Vec<RunId>,
    ) -> u32 {
        let spec = Arc::new(spec);
        self.generation = self.generation.wrapping_add(1);
        let key = self.slab.insert(View {
            spec: Arc::clone(&spec),
            generation: self.generation,
            tail: Tail::with_shape(seen, shape),
            fill: Fill::No,
            subscribers: Keys::new(),
            sweep_at: 0,
            sweep_left: 0,
            stamps: Stamps::default(),
            unended: unended.into(),
        }) as u32;
        match &spec.selection.scope {
            Scope::All => self.of_all.push(key),
            Scope::Project(label) => {
                self.by_project.entry(label.clone()).or_default().push(key);
            }
            Scope::Session(label) => {
                self.by_session.entry(label.clone()).or_default().push(key);
            }
            Scope::Runs(runs) => {
                for run in runs {
                    self.by_run.entry(*run).or_default().push(key);
                }
            }
        }
        self.by_spec.insert(spec, key);
        key
    }

    /// Forgets a view, and gives it back.
    pub(super) fn remove(&mut self, key: u32) -> View {
        let view = self.slab.remove(key as usize);
        self.by_spec.remove(&view.spec);
        match &view.spec.selection.scope {
            Scope::All => self.of_all.retain(|other| *other != key),
            Scope::Project(label) => unlist(&mut self.by_project, label.clone(), key),
            Scope::Session(label) => unlist(&mut self.by_session, label.clone(), key),
            Scope::Runs(runs) => {
                for run in runs {
                    unlist(&mut self.by_run, *run, key);
                }
            }
        }
        view
    }

    /// Appends the keys of the views that select this event.
    pub(super) fn matching(&self, event: &CommittedEvent, found: &mut Vec<u32>) {
        let wants = |key: &&u32| {
            self.slab[**key as usize].spec.selection.admits_type(&event.event.event_type)
        };
        let project = event.labels.project.as_ref().and_then(|label| self.by_project.get(label));
        let session = event.labels.session.as_ref().and_then(|label| self.by_session.get(label));
        let lists = [Some(&self.of_all), project, session, self.by_run.get(&event.event.run_id)];
        found.extend(lists.into_iter().flatten().flatten().filter(wants));
    }

    /// The views that name this run.
    pub(super) fn naming(&self, run: RunId) -> Keys {
        self.by_run.get(&run).cloned().unwrap_or_default()
    }
}

fn unlist<K: Eq + Hash>(lists: &mut HashMap<K, Keys>, name: K, key: u32) {
    if let Entry::Occupied(mut list) = lists.entry(name) {
        list.get_mut().retain(|other| *other != key);
        if list.get().is_empty() {
            list.remove();
        }
    }
}

impl std::ops::Index<u32> for Views {
    type Output = View;

    fn index(&self, key: u32) -> &View {
        &self.slab[key as usize]
    }
}

impl std::ops::IndexMut<u32> for Views {
    fn index_mut(&mut self, key: u32) -> &mut View {
        &mut self.slab[key as usize]
    }
}
