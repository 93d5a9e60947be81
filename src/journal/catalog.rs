//! What is known of every run, and in which journal values its events are.
//!
//! The catalog is changed by committed batches only, record by record in the order of their ids;
//! [`Catalog::apply_event`] and [`Catalog::apply_deletion`] are the only ways in, for a batch that
//! was committed just now as for one that is read when the journal is opened. So what is rebuilt
//! is what was there.
//!
//! A deleted run vanishes from it. Its events stay in values that it shared with others; they are
//! skipped on reading, since no run that the catalog knows has its id, nor will have: ids of runs
//! are never reused.
//!
//! Workers and history readers share it behind a lock, which the journal writer takes for writing
//! after each commit. So nobody holds it for long: what could take long ([`list_runs`],
//! [`projects`]) locks it for a slice at a time.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use super::codec::{DecodeError, parse_run_created};
use super::cold::{Jump, State, Window};
use super::postings::Postings;
use super::{Kept, RunHead, RunSummary};
use crate::event::{EventId, EventRef, Json, Label, Labels, RunId, RunStatus, Scope};
use crate::limits::{CATALOG_SLICE_BYTES, CATALOG_SLICE_RUNS, PAGE_BYTES_MAX};

/// Every run of the journal.
#[derive(Debug, PartialEq)]
pub struct Catalog {
    runs: BTreeMap<RunId, Run>,
    projects: BTreeMap<Label, Group>,
    sessions: HashMap<Label, Group>,
    running: usize,
    last_id: EventId,
    next_run: RunId,
    /// What was moved out of the log, and what of that is left.
    state: State,
    windows: Vec<Window>,
    /// Ids that were left out by a restore or an import, in order.
    jumps: Vec<Jump>,
    /// Events that a run keeps, at most.
    run_events_max: u64,
    /// Runs that retention has removed since this was last asked.
    vanished: Vec<RunId>,
}

#[derive(Debug, PartialEq)]
struct Run {
    labels: Arc<Labels>,
    metadata: Json,
    head: RunHead,
    kept: Kept,
    /// The values of the log that hold events of it.
    postings: Postings,
}

/// The runs that have a label.
#[derive(Debug, Default, PartialEq)]
struct Group {
    /// In ascending order.
    runs: Vec<RunId>,
    running: usize,
    postings: Postings,
    /// The last of their events that retention has removed.
    removed_through: EventId,
}

/// How many runs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunCounts {
    /// In any status.
    pub runs: usize,
    /// That take events.
    pub running: usize,
}

/// A project as `GET /projects` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectSummary {
    /// Its label.
    pub project: Label,
    /// Its runs.
    pub counts: RunCounts,
}

/// Which runs to list: those to which everything that is given applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// With this project label.
    pub project: Option<Label>,
    /// With this session label.
    pub session: Option<Label>,
    /// In this status.
    pub status: Option<RunStatus>,
}

/// A page of runs, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunPage {
    /// The runs.
    pub runs: Vec<RunSummary>,
    /// Whether more of them come after the last of these.
    pub has_more: bool,
}

impl Default for Catalog {
    fn default() -> Catalog {
        Catalog {
            runs: BTreeMap::new(),
            projects: BTreeMap::new(),
            sessions: HashMap::new(),
            running: 0,
            last_id: EventId(0),
            next_run: RunId(1),
            state: State::default(),
            windows: Vec::new(),
            jumps: Vec::new(),
            run_events_max: u64::MAX,
            vanished: Vec::new(),
        }
    }
}

impl Catalog {
    /// The last id that was given out, to an event or to a deletion.
    pub fn last_id(&self) -> EventId {
        self.last_id
    }

    /// The id that the next event or deletion gets.
    pub fn next_id(&self) -> EventId {
        let after_jump = self.jumps.last().map_or(EventId(0), |jump| jump.next);
        self.last_id.next().max(after_jump)
    }

    /// Whether a cursor is of no event that this journal has ever had: it lies above the last id,
    /// or where ids were left out.
    pub fn is_ahead(&self, cursor: EventId) -> bool {
        cursor > self.last_id || self.is_left_out(cursor)
    }

    fn is_left_out(&self, id: EventId) -> bool {
        self.jumps.iter().any(|jump| jump.holds(id))
    }

    /// Where ids were left out, in order.
    pub fn jumps(&self) -> &[Jump] {
        &self.jumps
    }

    /// The id that the next run gets.
    pub fn next_run(&self) -> RunId {
        self.next_run
    }

    /// How many runs there are.
    pub fn counts(&self) -> RunCounts {
        RunCounts { runs: self.runs.len(), running: self.running }
    }

    /// A run, as it is shown to clients.
    pub fn run(&self, id: RunId) -> Option<RunSummary> {
        self.runs.get(&id).map(|run| run.summary(id))
    }

    /// Where a run stands.
    pub fn head(&self, id: RunId) -> Option<RunHead> {
        self.runs.get(&id).map(|run| run.head)
    }

    /// The labels of a run.
    pub fn labels(&self, id: RunId) -> Option<&Arc<Labels>> {
        self.runs.get(&id).map(|run| &run.labels)
    }

    /// What the creator of a run said about it.
    pub fn metadata(&self, id: RunId) -> Option<&Json> {
        self.runs.get(&id).map(|run| &run.metadata)
    }

    /// Whether there is such a run.
    pub fn contains(&self, id: RunId) -> bool {
        self.runs.contains_key(&id)
    }

    /// How far the journal was moved out of the log.
    pub fn state(&self) -> State {
        self.state
    }

    /// The last id that was moved out of the log.
    pub fn moved_through(&self) -> EventId {
        self.state.moved_through
    }

    /// What was moved and is still there, from the oldest on.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// What is left of the events of a run.
    pub fn kept(&self, id: RunId) -> Option<Kept> {
        self.runs.get(&id).map(|run| run.kept(self.run_events_max))
    }

    /// How many events a run keeps.
    pub fn keep_run_events(&mut self, max: u64) {
        self.run_events_max = max;
    }

    /// The last event of this scope that retention has removed, as far as is known: what a reader
    /// asks for below it may be missing. 0 when nothing was removed.
    pub fn removed_through(&self, scope: &Scope) -> EventId {
        let of_group = |group: Option<&Group>| group.map_or(EventId(0), |it| it.removed_through);
        match scope {
            Scope::All => self.state.removed_through,
            Scope::Project(label) => of_group(self.projects.get(label)),
            Scope::Session(label) => of_group(self.sessions.get(label)),
            Scope::Runs(runs) => {
                let removed = |id| Some(self.runs.get(id)?.kept.removed_through);
                runs.iter().filter_map(removed).max().unwrap_or_default()
            }
        }
    }

    /// Where the events of this scope are in the log: one list for each run that it names, one for a project
    /// or a session. `None` stands for every value there is.
    pub(super) fn postings(&self, scope: &Scope) -> Option<Vec<&Postings>> {
        match scope {
            Scope::All => None,
            Scope::Project(label) => {
                Some(self.projects.get(label).map(|group| &group.postings).into_iter().collect())
            }
            Scope::Session(label) => {
                Some(self.sessions.get(label).map(|group| &group.postings).into_iter().collect())
            }
            Scope::Runs(runs) => {
                Some(runs.iter().filter_map(|id| Some(&self.runs.get(id)?.postings)).collect())
            }
        }
    }

    /// Takes in an event that was committed in the journal value `value`.
    ///
    /// # Errors
    /// When it does not follow from what was taken in before: the journal is not as it was
    /// written.
    pub fn apply_event(&mut self, value: EventId, event: &EventRef<'_>) -> Result<(), DecodeError> {
        self.take_id(event.id)?;
        if event.seq == 1 && event.event_type == "RUN_CREATED" {
            return self.create(value, event);
        }
        let run = self
            .runs
            .get_mut(&event.run_id)
            .ok_or(DecodeError::Malformed("an event of a run that was not created"))?;
        if event.seq != run.head.event_count + 1 {
            return Err(DecodeError::Malformed("a hole in the events of a run"));
        }
        run.head.last_event_id = event.id;
        run.head.event_count = event.seq;
        run.head.updated_at = event.created_at;
        let ends = RunStatus::after(event.event_type).filter(|_| !run.head.status.has_ended());
        if let Some(status) = ends {
            run.head.status = status;
            self.running -= 1;
        }
        let is_first_of_value = run.postings.push(value);
        if is_first_of_value || ends.is_some() {
            let labels = Arc::clone(&run.labels);
            for group in groups(&mut self.projects, &mut self.sessions, &labels) {
                group.postings.push(value);
                group.running -= usize::from(ends.is_some());
            }
        }
        Ok(())
    }

    /// Takes in the deletion of a run. Retention may have been first: between the decision and the
    /// commit, and so also in the journal.
    ///
    /// # Errors
    /// When there never was such a run, or the id does not follow.
    pub fn apply_deletion(&mut self, id: EventId, run_id: RunId) -> Result<(), DecodeError> {
        self.take_id(id)?;
        if self.forget_run(run_id) || run_id < self.next_run {
            Ok(())
        } else {
            Err(DecodeError::Malformed("the deletion of a run that was not created"))
        }
    }

    /// Whether there was such a run.
    fn forget_run(&mut self, id: RunId) -> bool {
        let Some(run) = self.runs.remove(&id) else { return false };
        let was_running = usize::from(!run.head.status.has_ended());
        self.running -= was_running;
        for group in groups(&mut self.projects, &mut self.sessions, &run.labels) {
            group.running -= was_running;
            if let Ok(at) = group.runs.binary_search(&id) {
                group.runs.remove(at);
            }
        }
        if let Some(label) = &run.labels.project
            && self.projects.get(label).is_some_and(|group| group.runs.is_empty())
        {
            self.projects.remove(label);
        }
        if let Some(label) = &run.labels.session
            && self.sessions.get(label).is_some_and(|group| group.runs.is_empty())
        {
            self.sessions.remove(label);
        }
        true
    }

    fn create(&mut self, value: EventId, event: &EventRef<'_>) -> Result<(), DecodeError> {
        if event.run_id < self.next_run {
            return Err(DecodeError::Malformed("a run that was created twice"));
        }
        let (labels, metadata) = parse_run_created(event.payload)?;
        self.next_run = RunId(event.run_id.0.saturating_add(1));
        self.running += 1;
        for group in make_groups(&mut self.projects, &mut self.sessions, &labels) {
            group.runs.push(event.run_id);
            group.running += 1;
            group.postings.push(value);
        }
        let mut postings = Postings::default();
        postings.push(value);
        let head = RunHead {
            status: RunStatus::Running,
            created_at: event.created_at,
            updated_at: event.created_at,
            last_event_id: event.id,
            event_count: 1,
        };
        let kept = Kept::default();
        let run = Run { labels: Arc::new(labels), metadata, head, kept, postings };
        self.runs.insert(event.run_id, run);
        Ok(())
    }

    /// Takes in what was moved before the journal was opened.
    pub(super) fn restore(&mut self, state: State, jumps: Vec<Jump>, windows: Vec<Window>) {
        self.last_id = state.moved_through;
        self.next_run = state.next_run.max(RunId(1));
        self.state = state;
        self.jumps = jumps;
        self.windows = windows;
    }

    /// Takes in a run as it stood at the end of the last window.
    pub(super) fn restore_run(
        &mut self,
        id: RunId,
        labels: Labels,
        metadata: Json,
        head: RunHead,
        kept: Kept,
    ) {
        let is_running = !head.status.has_ended();
        self.running += usize::from(is_running);
        for group in make_groups(&mut self.projects, &mut self.sessions, &labels) {
            group.runs.push(id);
            group.running += usize::from(is_running);
            group.removed_through = group.removed_through.max(kept.removed_through);
        }
        let postings = Postings::default();
        self.runs.insert(id, Run { labels: Arc::new(labels), metadata, head, kept, postings });
    }

    /// A window was made of the first part of the log, if anything in it is left: from now on its events are read from there.
    pub(super) fn add_window(&mut self, window: Option<Window>, state: State) {
        self.windows.extend(window);
        self.state = state;
    }

    /// Forgets where in the log the moved events of these runs, and of their groups, are.
    pub(super) fn forget_moved(&mut self, runs: &[RunId]) {
        let through = self.state.moved_through;
        for id in runs {
            let Some(run) = self.runs.get_mut(id) else { continue };
            run.postings.forget(through);
            for group in groups(&mut self.projects, &mut self.sessions, &run.labels) {
                group.postings.forget(through);
            }
        }
    }

    /// Forgets a window: nothing in it is read any more. What it takes of each run is said to
    /// [`Catalog::remove_events`].
    pub(super) fn drop_window(&mut self, first_id: EventId) {
        self.windows.retain(|window| window.first_id != first_id);
    }

    /// Less is left of a window.
    pub(super) fn shrink_window(&mut self, rest: Window) {
        let found = self.windows.iter_mut().find(|window| window.first_id == rest.first_id);
        found.expect("windows go by this thread only").clone_from(&rest);
    }

    /// The events of a run up to this one are gone, or about to go: `first_seq` is the first that
    /// is left. A run that has ended and has none left goes with them; whether it did.
    pub(super) fn remove_events(&mut self, id: RunId, kept: Kept) -> bool {
        self.state.removed_through = self.state.removed_through.max(kept.removed_through);
        let Some(run) = self.runs.get_mut(&id) else { return false };
        run.kept.first_seq = run.kept.first_seq.max(kept.first_seq);
        run.kept.removed_through = run.kept.removed_through.max(kept.removed_through);
        for group in groups(&mut self.projects, &mut self.sessions, &run.labels) {
            group.removed_through = group.removed_through.max(kept.removed_through);
        }
        let is_over = run.head.status.has_ended() && run.kept.first_seq > run.head.event_count;
        if is_over {
            let last = run.head.last_event_id;
            self.state.vanished_through = self.state.vanished_through.max(last);
            self.forget_run(id);
            self.vanished.push(id);
        }
        is_over
    }

    /// Runs that retention has removed since the last call.
    pub(super) fn take_vanished(&mut self) -> Vec<RunId> {
        std::mem::take(&mut self.vanished)
    }

    fn take_id(&mut self, id: EventId) -> Result<(), DecodeError> {
        if id <= self.last_id || self.is_left_out(id) {
            return Err(DecodeError::Malformed("an id that was given out before"));
        }
        self.last_id = id;
        Ok(())
    }

    /// Looks at runs below `before`, newest first, and adds those that match to `page`, until it
    /// has one more than `limit`, or this slice is long enough. Where to go on, if there may be more.
    fn list_slice(
        &self,
        filter: &RunFilter,
        before: RunId,
        limit: usize,
        page: &mut Vec<RunSummary>,
    ) -> Option<RunId> {
        let groups = [
            filter.project.as_ref().map(|label| self.projects.get(label)),
            filter.session.as_ref().map(|label| self.sessions.get(label)),
        ];
        let smallest = groups
            .into_iter()
            .flatten()
            .map(|group| group.map_or(&[][..], |group| &group.runs[..]))
            .min_by_key(|runs| runs.len());
        let mut bytes = 0;
        let mut look = |id: RunId, run: &Run| {
            if run.matches(filter) {
                bytes += run.metadata.as_str().len();
                page.push(run.summary(id));
            }
            page.len() <= limit && bytes < CATALOG_SLICE_BYTES
        };
        let mut looked_at = 0;
        match smallest {
            Some(ids) => {
                let below = ids.partition_point(|id| *id < before);
                for id in ids[..below].iter().rev() {
                    looked_at += 1;
                    let more = self.runs.get(id).is_none_or(|run| look(*id, run));
                    if !more || looked_at == CATALOG_SLICE_RUNS {
                        return Some(*id);
                    }
                }
            }
            None => {
                for (id, run) in self.runs.range(..before).rev() {
                    looked_at += 1;
                    if !look(*id, run) || looked_at == CATALOG_SLICE_RUNS {
                        return Some(*id);
                    }
                }
            }
        }
        None
    }

    /// Checks what the fields promise each other: for tests.
    #[cfg(test)]
    pub(super) fn invariants(&self) {
        assert_eq!(
            self.running,
            self.runs.values().filter(|run| !run.head.status.has_ended()).count()
        );
        assert!(self.runs.last_key_value().is_none_or(|(id, _)| *id < self.next_run));
        for (label, group) in &self.projects {
            let runs: Vec<RunId> = self
                .runs
                .iter()
                .filter(|(_, run)| run.labels.project.as_ref() == Some(label))
                .map(|(id, _)| *id)
                .collect();
            assert!(!runs.is_empty());
            assert_eq!(group.runs, runs);
        }
        for run in self.runs.values() {
            assert!(run.head.last_event_id <= self.last_id);
            assert!(run.head.created_at <= run.head.updated_at);
        }
    }
}

impl Run {
    fn kept(&self, events_max: u64) -> Kept {
        let first_seq = (self.head.event_count + 1).saturating_sub(events_max);
        Kept { first_seq: first_seq.max(self.kept.first_seq), ..self.kept }
    }

    fn summary(&self, id: RunId) -> RunSummary {
        RunSummary {
            id,
            labels: Arc::clone(&self.labels),
            status: self.head.status,
            metadata: self.metadata.clone(),
            created_at: self.head.created_at,
            updated_at: self.head.updated_at,
            last_event_id: self.head.last_event_id,
            event_count: self.head.event_count,
        }
    }

    fn matches(&self, filter: &RunFilter) -> bool {
        (filter.project.is_none() || filter.project == self.labels.project)
            && (filter.session.is_none() || filter.session == self.labels.session)
            && filter.status.is_none_or(|status| status == self.head.status)
    }
}

/// The groups of these labels, which are made when they are new.
fn make_groups<'a>(
    projects: &'a mut BTreeMap<Label, Group>,
    sessions: &'a mut HashMap<Label, Group>,
    labels: &Labels,
) -> impl Iterator<Item = &'a mut Group> {
    let project = labels.project.as_ref().map(|label| projects.entry(label.clone()).or_default());
    let session = labels.session.as_ref().map(|label| sessions.entry(label.clone()).or_default());
    project.into_iter().chain(session)
}

fn groups<'a>(
    projects: &'a mut BTreeMap<Label, Group>,
    sessions: &'a mut HashMap<Label, Group>,
    labels: &Labels,
) -> impl Iterator<Item = &'a mut Group> {
    let project = labels.project.as_ref().and_then(|label| projects.get_mut(label));
    let session = labels.session.as_ref().and_then(|label| sessions.get_mut(label));
    project.into_iter().chain(session)
}

/// The catalog, for reading. Hold it for microseconds.
pub fn read(catalog: &RwLock<Catalog>) -> RwLockReadGuard<'_, Catalog> {
    catalog.read().expect("no one panics while holding the catalog")
}

/// At most `limit` runs, newest first, with ids below `before` if it is given. The page also ends
/// when it has [`PAGE_BYTES_MAX`] bytes of metadata.
///
/// The catalog is locked for [`CATALOG_SLICE_RUNS`] runs at a time, so runs may come and change
/// between two slices; none is listed twice, and none is left out that is there all the while.
pub fn list_runs(
    catalog: &RwLock<Catalog>,
    filter: &RunFilter,
    before: Option<RunId>,
    limit: usize,
) -> RunPage {
    let mut runs = Vec::new();
    let mut next = before.or(Some(RunId(u64::MAX)));
    let mut counted = 0;
    let mut bytes = 0;
    while let Some(before) = next
        && runs.len() <= limit
    {
        next = read(catalog).list_slice(filter, before, limit, &mut runs);
        bytes += runs[counted..].iter().map(|run| run.metadata.as_str().len()).sum::<usize>();
        counted = runs.len();
        if bytes >= PAGE_BYTES_MAX && next.is_some() && runs.len() <= limit {
            return RunPage { runs, has_more: true };
        }
    }
    let has_more = runs.len() > limit;
    runs.truncate(limit);
    RunPage { runs, has_more }
}

/// Every project that has runs, in the order of their labels.
pub fn projects(catalog: &RwLock<Catalog>) -> Vec<ProjectSummary> {
    let mut found: Vec<ProjectSummary> = Vec::new();
    loop {
        let catalog = read(catalog);
        let after = found
            .last()
            .map_or(Bound::Unbounded, |project| Bound::Excluded(project.project.clone()));
        let before = found.len();
        found.extend(
            catalog.projects.range((after, Bound::Unbounded)).take(CATALOG_SLICE_RUNS).map(
                |(label, group)| ProjectSummary {
                    project: label.clone(),
                    counts: RunCounts { runs: group.runs.len(), running: group.running },
                },
            ),
        );
        if found.len() < before + CATALOG_SLICE_RUNS {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Timestamp;
    use crate::journal::codec::run_created_payload;

    /// Creates runs 1 to `count`, each with an event of its own; every 700th is of project `rare`.
    fn catalog(count: u64, metadata: &Json) -> Catalog {
        let mut catalog = Catalog::default();
        for id in 1..=count {
            let project = if id.is_multiple_of(700) { "rare" } else { "usual" };
            let labels = Labels { project: Some(Label::new(project).unwrap()), session: None };
            let payload = run_created_payload(&labels, metadata);
            let event = EventRef {
                id: EventId(id),
                run_id: RunId(id),
                seq: 1,
                event_type: "RUN_CREATED",
                payload: payload.as_str(),
                created_at: Timestamp(id),
            };
            catalog.apply_event(EventId(id), &event).unwrap();
        }
        catalog
    }

    fn closing(id: u64, run: u64) -> EventRef<'static> {
        EventRef {
            id: EventId(id),
            run_id: RunId(run),
            seq: 2,
            event_type: "RUN_COMPLETED",
            payload: "null",
            created_at: Timestamp(id),
        }
    }

    #[test]
    fn listing_goes_on_past_slices_in_which_nothing_matches() {
        let mut catalog = catalog(5_000, &Json::null());
        catalog.apply_event(EventId(5_001), &closing(5_001, 3)).unwrap();
        let catalog = RwLock::new(catalog);
        let filter = RunFilter { status: Some(RunStatus::Completed), ..RunFilter::default() };
        let page = list_runs(&catalog, &filter, None, 10);
        assert_eq!(page.runs.iter().map(|run| run.id.0).collect::<Vec<_>>(), [3]);
        assert!(!page.has_more);
        let project = Some(Label::new("rare").unwrap());
        let filter = RunFilter { project, ..RunFilter::default() };
        let page = list_runs(&catalog, &filter, Some(RunId(4_200)), 3);
        assert_eq!(page.runs.iter().map(|run| run.id.0).collect::<Vec<_>>(), [3_500, 2_800, 2_100]);
        assert!(page.has_more);
    }

    #[test]
    fn a_page_of_runs_is_bounded_in_bytes() {
        let metadata = Json::from_trusted(format!("\"{}\"", "x".repeat(100_000)));
        let catalog = RwLock::new(catalog(200, &metadata));
        let filter = RunFilter::default();
        let page = list_runs(&catalog, &filter, None, 1_000);
        assert!(page.has_more);
        assert!(page.runs.len() * 100_000 <= PAGE_BYTES_MAX + CATALOG_SLICE_BYTES + 100_000);
        let last = page.runs.last().map(|run| run.id);
        let rest = list_runs(&catalog, &filter, last, 1_000);
        let third = list_runs(&catalog, &filter, rest.runs.last().map(|run| run.id), 1_000);
        assert_eq!(page.runs.len() + rest.runs.len() + third.runs.len(), 200);
    }

    #[test]
    fn what_does_not_follow_is_refused() {
        let mut catalog = catalog(2, &Json::null());
        let not_created = closing(3, 9);
        assert!(catalog.apply_event(EventId(3), &not_created).is_err());
        let hole = EventRef { seq: 4, ..closing(4, 1) };
        assert!(catalog.apply_event(EventId(4), &hole).is_err());
        let id_again = closing(2, 1);
        assert!(catalog.apply_event(EventId(2), &id_again).is_err());
        assert!(catalog.apply_deletion(EventId(5), RunId(9)).is_err());
        let twice = EventRef { seq: 1, event_type: "RUN_CREATED", ..closing(6, 1) };
        assert!(catalog.apply_event(EventId(6), &twice).is_err());
    }

    #[test]
    fn a_project_goes_with_its_last_run() {
        let mut catalog = catalog(701, &Json::null());
        catalog.apply_deletion(EventId(702), RunId(700)).unwrap();
        catalog.invariants();
        let catalog = RwLock::new(catalog);
        let listed = projects(&catalog);
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].counts, RunCounts { runs: 700, running: 700 });
    }
}
