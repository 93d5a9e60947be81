//! A disk in memory that remembers what was synced, for the tests.
//!
//! What is written is seen by every read at once, as in the kernel's page cache, but lies on the
//! disk only from the next sync of that file on. When the power is cut, what was written since is
//! there or not as the kernel may have had it: each sector of 512 bytes has the content that it had
//! after any one of the writes to it, independently of the others, so that a write may be lost,
//! torn, or kept while an earlier one is lost. So is the file's length, and a file's name until the
//! names are synced. A sync that fails may have done any part of its work, and what it has not
//! done is never tried again, although reads show it until the file is opened anew: that is what
//! Linux does.
//!
//! Everything is drawn from one seed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redb::StorageBackend;

use super::disk::{Disk, Room};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What is asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// A write.
    Write,
    /// Another length.
    SetLength,
    /// A sync.
    Sync,
    /// A name that is given or taken away.
    Names,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power is cut before the call: it and every later one fail.
    Cut,
    /// The call fails with this error.
    Fails(io::ErrorKind),
}

/// At which call it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Of which kind; of any if it is not said.
    pub(crate) call: Option<Call>,
    /// How many such calls go well before.
    pub(crate) after: u64,
    /// What then happens.
    pub(crate) fault: Fault,
}

/// The disk; a clone is the same disk.
#[derive(Clone, Debug)]
pub(crate) struct FakeDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: StdRng,
    files: BTreeMap<String, Content>,
    plan: Option<Plan>,
    is_cut: bool,
    is_full: bool,
    calls: u64,
    syncs: u64,
}

#[derive(Clone, Debug, Default)]
struct Content {
    name_is_synced: bool,
    synced: Vec<u8>,
    /// As it is read.
    current: Vec<u8>,
    /// What has happened to it since the last sync.
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

/// How much of what was not synced is there after a cut.
#[derive(Clone, Copy)]
enum Luck {
    Nothing,
    Everything,
    /// Each sector on its own.
    Sectors,
    /// All that was done before some moment.
    Prefix,
}

/// A file on it.
#[derive(Debug)]
pub(crate) struct FakeFile {
    disk: FakeDisk,
    name: String,
}

impl FakeDisk {
    /// An empty one.
    pub(crate) fn new(seed: u64) -> FakeDisk {
        FakeDisk(Arc::new(Mutex::new(State {
            rng: StdRng::seed_from_u64(seed),
            files: BTreeMap::new(),
            plan: None,
            is_cut: false,
            is_full: false,
            calls: 0,
            syncs: 0,
        })))
    }

    /// What will go wrong, from now on.
    pub(crate) fn plan(&self, plan: Plan) {
        self.state().plan = Some(plan);
    }

    /// Whether the power was cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.state().is_cut
    }

    /// Whether it has gone wrong.
    pub(crate) fn has_failed(&self) -> bool {
        self.state().plan.is_none()
    }

    /// Whether room is refused.
    pub(crate) fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    /// Whether a cut now would lose nothing that was written. (redb makes a file shorter after the
    /// sync that has freed its end.)
    pub(crate) fn is_synced(&self) -> bool {
        let is_write = |change: &Change| matches!(change, Change::Write { .. });
        let state = self.state();
        state.files.values().all(|file| file.name_is_synced && !file.pending.iter().any(is_write))
    }

    /// A disk with these files.
    pub(crate) fn with(contents: &BTreeMap<String, Vec<u8>>) -> FakeDisk {
        let disk = FakeDisk::new(0);
        disk.state().files = contents
            .iter()
            .map(|(name, content)| (name.clone(), Content::on(content.clone())))
            .collect();
        disk
    }

    /// What its files hold.
    pub(crate) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state.files.iter().map(|(name, file)| (name.clone(), file.current.clone())).collect()
    }

    /// Changes a bit behind everybody's back.
    pub(crate) fn flip(&self, name: &str, byte: usize, bit: u8) {
        let mut state = self.state();
        let file = state.file(name);
        file.current[byte] ^= 1 << bit;
        file.synced[byte] ^= 1 << bit;
    }

    /// Files that were synced so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Writes, syncs and changes of length so far.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Cuts the power and gives it back: the disk as it is found then. This one is gone.
    pub(crate) fn after_cut(&self) -> FakeDisk {
        let luck = Luck::draw(&mut self.state().rng);
        self.after_cut_with(luck)
    }

    /// The same when nothing is there but what was synced.
    pub(crate) fn after_unlucky_cut(&self) -> FakeDisk {
        self.after_cut_with(Luck::Nothing)
    }

    fn after_cut_with(&self, luck: Luck) -> FakeDisk {
        let mut state = self.state();
        state.is_cut = true;
        let State { rng, files, .. } = &mut *state;
        let mut found = BTreeMap::new();
        for (name, file) in files.iter() {
            if file.name_is_synced || luck.keeps(rng) {
                found.insert(name.clone(), Content::on(file.on_disk(luck, rng)));
            }
        }
        let disk = FakeDisk::new(rng.random());
        disk.state().files = found;
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Luck {
    fn draw(rng: &mut StdRng) -> Luck {
        match rng.random_range(0..6) {
            0 => Luck::Nothing,
            1 => Luck::Everything,
            2 => Luck::Prefix,
            _ => Luck::Sectors,
        }
    }

    fn keeps(self, rng: &mut StdRng) -> bool {
        match self {
            Luck::Nothing => false,
            Luck::Everything => true,
            Luck::Sectors | Luck::Prefix => rng.random(),
        }
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { offset, data } => {
                let end = offset + data.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(data);
            }
            Change::Length(length) => content.resize(*length, 0),
        }
    }
}

impl Content {
    /// That of a file which lies on the disk.
    fn on(content: Vec<u8>) -> Content {
        Content {
            name_is_synced: true,
            synced: content.clone(),
            current: content,
            pending: Vec::new(),
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    /// What is found on the disk if the power is cut now.
    fn on_disk(&self, luck: Luck, rng: &mut StdRng) -> Vec<u8> {
        let mut content = self.synced.clone();
        let kept = match luck {
            Luck::Nothing => 0,
            Luck::Everything => self.pending.len(),
            Luck::Prefix => rng.random_range(0..=self.pending.len()),
            Luck::Sectors => return self.sectors_on_disk(rng),
        };
        self.pending[..kept].iter().for_each(|change| change.apply(&mut content));
        content
    }

    /// Of each sector one of the contents that it has had since the last sync, and likewise of the
    /// length.
    fn sectors_on_disk(&self, rng: &mut StdRng) -> Vec<u8> {
        let mut lengths = vec![self.synced.len()];
        let mut versions: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        let mut content = self.synced.clone();
        for change in &self.pending {
            change.apply(&mut content);
            lengths.push(content.len());
            if let Change::Write { offset, data } = change {
                for sector in offset / SECTOR_BYTES..(offset + data.len()).div_ceil(SECTOR_BYTES) {
                    let start = sector * SECTOR_BYTES;
                    let end = content.len().min(start + SECTOR_BYTES);
                    versions.entry(sector).or_default().push(content[start..end].to_vec());
                }
            }
        }
        let mut found = self.synced.clone();
        // Most sectors kept, most lost, or one like the other.
        let keeps = [0.05, 0.5, 0.95][rng.random_range(0..3)];
        for (sector, versions) in versions {
            if rng.random_bool(keeps) {
                let data = versions[rng.random_range(0..versions.len())].clone();
                Change::Write { offset: sector * SECTOR_BYTES, data }.apply(&mut found);
            }
        }
        found.resize(lengths[rng.random_range(0..lengths.len())], 0);
        found
    }
}

impl State {
    /// Whether this call fails.
    fn check(&mut self, call: Call) -> io::Result<()> {
        if self.is_cut {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.calls += 1;
        let Some(plan) = self.plan.as_mut().filter(|plan| plan.call.is_none_or(|of| of == call))
        else {
            return Ok(());
        };
        if plan.after > 0 {
            plan.after -= 1;
            return Ok(());
        }
        let fault = plan.fault;
        self.plan = None;
        match fault {
            Fault::Cut => {
                self.is_cut = true;
                Err(io::ErrorKind::NotConnected.into())
            }
            Fault::Fails(kind) => Err(kind.into()),
        }
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let result = self.check(Call::Sync);
        if self.is_cut {
            return result;
        }
        // Not all of what is read: what a failed sync has lost stays lost.
        let luck = if result.is_ok() { Luck::Everything } else { Luck::Sectors };
        let State { rng, files, .. } = self;
        let file = files.get_mut(name).expect("it was opened");
        file.synced = file.on_disk(luck, rng);
        file.pending.clear();
        self.syncs += u64::from(result.is_ok());
        result
    }

    fn file(&mut self, name: &str) -> &mut Content {
        self.files.get_mut(name).expect("it was opened")
    }
}

impl Room for FakeDisk {
    fn hold(&self, _: u64) -> io::Result<()> {
        if self.state().is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn used_bytes(&self) -> io::Result<u64> {
        Ok(self.state().files.values().map(|file| file.current.len() as u64).sum())
    }
}

impl Disk for FakeDisk {
    type File = FakeFile;

    fn open(&self, name: &str) -> io::Result<FakeFile> {
        let mut state = self.state();
        state.files.entry(name.to_owned()).or_default();
        state.sync(name)?;
        let file = state.file(name);
        file.current.clone_from(&file.synced);
        Ok(FakeFile { disk: self.clone(), name: name.to_owned() })
    }

    fn has(&self, name: &str) -> io::Result<bool> {
        Ok(self.state().files.contains_key(name))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.check(Call::Names)?;
        state.files.remove(name);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.check(Call::Names)?;
        let mut file = state.files.remove(from).expect("it was opened");
        file.name_is_synced = false;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state();
        state.check(Call::Sync)?;
        state.files.values_mut().for_each(|file| file.name_is_synced = true);
        Ok(())
    }
}

impl StorageBackend for FakeFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().file(&self.name).current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.is_cut {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let offset = usize::try_from(offset).unwrap();
        let content = &state.file(&self.name).current;
        let read = content.get(offset..offset + out.len());
        out.copy_from_slice(read.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.check(Call::SetLength)?;
        state.file(&self.name).change(Change::Length(usize::try_from(length).unwrap()));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.state().sync(&self.name)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.check(Call::Write)?;
        let offset = usize::try_from(offset).unwrap();
        state.file(&self.name).change(Change::Write { offset, data: data.to_vec() });
        Ok(())
    }
}
