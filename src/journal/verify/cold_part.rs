//! The rows of the cold part beside windows: state, runs and heads, keys, producers.

use std::ops::ControlFlow;

use super::{Followed, Kind, Place, Verifier};
use crate::event::RunId;
use crate::journal::codec::parse_run_created;
use crate::journal::cold;
use crate::journal::store::Table;
use crate::journal::{Kept, RunHead};
use crate::limits::PRODUCERS_PER_RUN_MAX;

impl Verifier<'_> {
    pub(super) fn cold(&mut self, has_log: bool) {
        self.cold_state(has_log);
        self.cold_runs();
        self.cold_keys();
        self.cold_windows();
        self.heads_follow();
        self.cold_producers();
        self.checked.runs = self.runs.values().filter(|run| run.head.is_some()).count() as u64;
    }

    fn cold_state(&mut self, has_log: bool) {
        match cold::state(self.store) {
            Ok((state, jumps)) => (self.state, self.jumps) = (state, jumps),
            Err(error) => {
                self.problem(
                    Kind::State,
                    Place::Row(Table::State, Vec::new()),
                    format!("{error}: a server would refuse the journal"),
                );
                return;
            }
        }
        let moved = self.state.moved_through;
        match self.store.removed_through() {
            Ok(removed) if has_log && removed > moved => self.problem(
                Kind::State,
                Place::Journal,
                format!(
                    "the log was removed up to {removed}, and what was moved ends at {moved}: \
                     the files are not of the same time, and what was between is lost"
                ),
            ),
            Ok(_) => {}
            Err(error) => self.problem(Kind::File, Place::Journal, error.to_string()),
        }
    }

    fn cold_runs(&mut self) {
        self.rows(Table::Heads, &[], |this, key, row| {
            let parsed = cold::numbers(key).and_then(|[run]| Ok((run, cold::parse_head(row)?)));
            match parsed {
                Ok((run, head)) => {
                    this.runs.entry(RunId(run)).or_default().head = Some(head);
                    this.head_makes_sense(RunId(run), head);
                }
                Err(error) => {
                    this.bytes(Table::Heads, key, &error);
                    this.lose_run(key);
                }
            }
            ControlFlow::Continue(())
        });
        self.rows(Table::Runs, &[], |this, key, row| {
            let parsed = cold::numbers(key).and_then(|[run]| {
                let created = cold::parse_run(row)?;
                parse_run_created(created)?;
                Ok((RunId(run), created))
            });
            match parsed {
                Ok((run, created)) => {
                    this.runs.entry(run).or_default().created = Some(created.into());
                }
                Err(error) => {
                    this.bytes(Table::Runs, key, &error);
                    this.lose_run(key);
                }
            }
            ControlFlow::Continue(())
        });
        let halves: Vec<(RunId, bool)> = self
            .runs
            .iter()
            .filter(|(id, run)| {
                run.head.is_some() != run.created.is_some() && !self.is_unreadable(**id)
            })
            .map(|(id, run)| (*id, run.head.is_some()))
            .collect();
        for (run, has_head) in halves {
            let missing = if has_head { "what it is" } else { "where it stands" };
            let text = format!("{missing} is missing: a server would refuse the journal");
            self.problem(Kind::Run, Place::Run(run), text);
        }
    }

    /// Nothing more is said of a run whose row cannot be read.
    fn lose_run(&mut self, key: &[u8]) {
        if let Ok([run]) = cold::numbers(key) {
            self.unreadable_runs.push((RunId(run), RunId(run)));
        }
    }

    fn head_makes_sense(&mut self, id: RunId, (head, kept): (RunHead, Kept)) {
        let state = self.state;
        let wrong = if id >= state.next_run || id == RunId(0) {
            "its id has not been given out yet: the next run would get it again"
        } else if head.event_count == 0 || head.created_at > head.updated_at {
            "where it stands makes no sense"
        } else if head.last_event_id > state.moved_through {
            "it stands beyond what was moved: its events would count twice"
        } else if kept.first_seq == 0 || kept.removed_through > head.last_event_id {
            "more of its events count as removed than it had"
        } else if kept.removed_through > state.removed_through {
            "events of it count as removed that the journal does not know of: streams would not say so"
        } else {
            return;
        };
        self.problem(Kind::Run, Place::Run(id), wrong);
    }

    fn cold_keys(&mut self) {
        self.rows(Table::Keys, &[], |this, key, row| {
            match cold::parse_key(key, row) {
                Ok((_, _, state)) => {
                    this.checked.keys += 1;
                    // A run that is gone has left its keys behind, until they are old.
                    let wrong = if state.run >= this.state.next_run || state.run == RunId(0) {
                        Some("it is of a run that never was")
                    } else if state.first_id > this.state.moved_through {
                        Some("its events were not moved yet, and it was")
                    } else if state.count == 0 {
                        Some("nothing was appended with it")
                    } else {
                        None
                    };
                    if let Some(wrong) = wrong {
                        this.problem(Kind::Key, Place::Row(Table::Keys, key.to_vec()), wrong);
                    }
                    this.keys.insert(state.first_id, (state.run, state.first_seq));
                }
                Err(error) => this.bytes(Table::Keys, key, &error),
            }
            ControlFlow::Continue(())
        });
    }

    fn cold_producers(&mut self) {
        let mut count = (RunId(0), 0);
        self.rows(Table::Producers, &[], |this, key, row| {
            let (run, state) = match cold::parse_producer(key, row) {
                Ok((run, _, state)) => (run, state),
                Err(error) => {
                    this.bytes(Table::Producers, key, &error);
                    return ControlFlow::Continue(());
                }
            };
            this.checked.producers += 1;
            count = if count.0 == run { (run, count.1 + 1) } else { (run, 1) };
            let is_known = this.runs.contains_key(&run) || this.is_unreadable(run);
            let wrong = if !is_known {
                "it is of a run that there is not"
            } else if state.heard > this.state.moved_through {
                "its request was not moved yet, and it was"
            } else if count.1 == PRODUCERS_PER_RUN_MAX + 1 {
                "its run has more producers than a run may have"
            } else {
                return ControlFlow::Continue(());
            };
            this.problem(Kind::Producer, Place::Row(Table::Producers, key.to_vec()), wrong);
            ControlFlow::Continue(())
        });
    }

    /// Where each run stands is where its events end.
    fn heads_follow(&mut self) {
        let mut wrong = Vec::new();
        for (id, run) in self.runs.iter().filter(|(id, _)| !self.is_unreadable(**id)) {
            if self.is_doomed(*id) {
                continue;
            }
            let Some((head, kept)) = run.head else { continue };
            let stands = Followed {
                id: head.last_event_id,
                seq: head.event_count,
                time: head.updated_at,
                status: head.status,
            };
            let text = match run.followed {
                // All of them were removed.
                _ if kept.first_seq > head.event_count => continue,
                None => format!("it has {} events, and none is there", head.event_count),
                Some(last) if last.seq != stands.seq => {
                    format!("it stands at seq {}, and its events end with {}", stands.seq, last.seq)
                }
                Some(last) if (last.id, last.time) != (stands.id, stands.time) => format!(
                    "it stands at event {} of {}, and its last is {} of {}",
                    stands.id, stands.time, last.id, last.time
                ),
                Some(last) if last.status != stands.status => format!(
                    "it counts as {}, and by its events it is {}",
                    stands.status.as_str(),
                    last.status.as_str()
                ),
                Some(_) => continue,
            };
            wrong.push((*id, text));
        }
        for (run, text) in wrong {
            self.problem(Kind::Run, Place::Run(run), text);
        }
    }
}
