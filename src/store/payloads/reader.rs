use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::recipe::{Extent, Recipe};
use super::segment::{self, Unpacker};
use super::{Side, index};
use crate::model::{Body, BodyHash, ExchangeId};
use crate::store::columns::Col;
use crate::store::data_dir::identity;
use crate::store::{DataDir, StoreError, migrate};

/// Payload files kept open.
const OPEN_DAYS: usize = 8;
/// Unpacked segments kept, of all days: 4 MiB. What was recorded in the last seconds is in the latest few.
const SEGMENTS: usize = 32;

/// Reads bodies back.
#[derive(Debug)]
pub(in crate::store) struct PayloadReader {
    dir: DataDir,
    open: HashMap<String, Day>,
    unpacker: Unpacker,
    /// Days with bodies that turned out damaged: said once, not for each body.
    told: HashSet<String>,
    damaged: u64,
}

#[derive(Debug)]
struct Day {
    db: Connection,
    /// As [`identity`] tells it.
    file: u64,
    /// Unpacked, the one used last comes last.
    segments: VecDeque<(u32, Vec<u8>)>,
}

/// Why a body cannot be given.
enum Failed {
    Sql(rusqlite::Error),
    /// It is not what was stored, for this reason.
    Damaged(&'static str),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl PayloadReader {
    pub fn new(dir: DataDir) -> Self {
        Self { dir, open: HashMap::new(), unpacker: Unpacker::new(), told: HashSet::new(), damaged: 0 }
    }

    /// Closes the file of a day.
    pub fn close(&mut self, day: &str) {
        self.open.remove(day);
    }

    /// How many bodies could not be read because they are damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// What was kept of a body; none where it was empty, retention has dropped it, or it is damaged, which is counted: one
    /// bad file must not keep the others from being read.
    pub fn get(
        &mut self,
        day: &str,
        id: ExchangeId,
        side: Side,
        body: &Body,
    ) -> Result<Option<Bytes>, StoreError> {
        match self.read(day, id, side, body) {
            Err(error @ (StoreError::Corrupt { .. } | StoreError::Damaged { .. })) => {
                self.damaged += 1;
                if self.told.insert(day.to_owned()) {
                    tracing::warn!(%error, "bodies cannot be read; what else is known of their exchanges is");
                }
                Ok(None)
            }
            read => read,
        }
    }

    fn read(
        &mut self,
        day: &str,
        id: ExchangeId,
        side: Side,
        body: &Body,
    ) -> Result<Option<Bytes>, StoreError> {
        if !self.opened(day)? {
            return Ok(None);
        }
        let open = self.open.get_mut(day).expect("opened just above");
        let path = self.dir.payload_db(day);
        open.read(&mut self.unpacker, id, side, body).map_err(|failed| match failed {
            Failed::Sql(source) => StoreError::reading(&path, "read a body")(source),
            Failed::Damaged(reason) => StoreError::Damaged {
                operation: "read a body",
                object: format!("{id} in {}", path.display()),
                reason: reason.to_owned(),
            },
        })
    }

    /// Whether the day has a file; it is open then.
    fn opened(&mut self, day: &str) -> Result<bool, StoreError> {
        let path = self.dir.payload_db(day);
        let Some(found) = identity(&path) else {
            self.open.remove(day);
            return Ok(false);
        };
        if self.open.get(day).is_none_or(|day| day.file != found) {
            self.open.remove(day);
            if self.open.len() >= OPEN_DAYS {
                self.open.clear();
            }
            self.open.insert(day.to_owned(), Day::open(&path)?);
        }
        Ok(true)
    }
}

impl Day {
    fn open(path: &Path) -> Result<Self, StoreError> {
        let db = migrate::open(path, &migrate::PAYLOAD)?;
        Ok(Self { db, file: identity(path).unwrap_or_default(), segments: VecDeque::new() })
    }

    fn read(
        &mut self,
        unpacker: &mut Unpacker,
        id: ExchangeId,
        side: Side,
        body: &Body,
    ) -> Result<Option<Bytes>, Failed> {
        let Some(recipe) = self.recipe(id, side)? else { return self.unsplit(id, side, body) };
        let length = recipe.length();
        if length > body.length {
            return Err(Failed::Damaged("its recipe is longer than it was"));
        }
        let check = recipe.check;
        let mut bytes = Vec::with_capacity(length as usize);
        for extent in self.extents(recipe)? {
            bytes.extend_from_slice(self.stretch(unpacker, extent)?);
        }
        let intact = match check {
            Some(check) => index::check(&bytes) == check,
            None => BodyHash::of(&bytes) == body.sha256,
        };
        if intact { Ok(Some(bytes.into())) } else { Err(Failed::Damaged("its hash is another")) }
    }

    fn recipe(&self, id: ExchangeId, side: Side) -> Result<Option<Recipe>, Failed> {
        const REQUEST: &str = "SELECT request FROM recipe WHERE exchange_id = ?1";
        const RESPONSE: &str = "SELECT response FROM recipe WHERE exchange_id = ?1";
        let sql = if side == Side::Request { REQUEST } else { RESPONSE };
        let row: Option<Option<Vec<u8>>> =
            self.db.prepare_cached(sql)?.query_row([Col(id)], |r| r.get(0)).optional()?;
        row.flatten()
            .map(|bytes| Recipe::decode(&bytes).ok_or(Failed::Damaged("its recipe makes no sense")))
            .transpose()
    }

    /// All stretches of a body, those of its base included.
    fn extents(&self, recipe: Recipe) -> Result<Vec<Extent>, Failed> {
        // From the last to the first.
        let mut reversed = Vec::new();
        let mut wanted = recipe.length();
        let mut recipe = recipe;
        loop {
            let from_base = recipe.base.map_or(0, |b| b.length).min(wanted);
            let mut own = wanted - from_base;
            let begin = reversed.len();
            for mut extent in recipe.extents {
                if own == 0 {
                    break;
                }
                extent.length = extent.length.min(own.try_into().unwrap_or(u32::MAX));
                own -= u64::from(extent.length);
                reversed.push(extent);
            }
            reversed[begin..].reverse();
            if own > 0 {
                return Err(Failed::Damaged("its recipe ends too early"));
            }
            let Some(base) = recipe.base.filter(|_| from_base > 0) else { break };
            recipe = self
                .recipe(base.exchange, base.side)?
                .ok_or(Failed::Damaged("the body that it begins with is not there"))?;
            // So that it ends: a base holds something of its own of what is wanted of it.
            if recipe.base.is_some_and(|b| b.length >= from_base) {
                return Err(Failed::Damaged("its recipe turns in circles"));
            }
            wanted = from_base;
        }
        reversed.reverse();
        Ok(reversed)
    }

    fn stretch(&mut self, unpacker: &mut Unpacker, extent: Extent) -> Result<&[u8], Failed> {
        let (from, to) = (extent.offset as usize, extent.offset as usize + extent.length as usize);
        let at = self.segments.iter().rposition(|(id, _)| *id == extent.segment);
        let held = at.and_then(|at| self.segments.remove(at));
        // One that was read while it grew may be too short by now.
        let segment = match held.filter(|(_, bytes)| bytes.len() >= to) {
            Some(held) => held,
            None => (extent.segment, self.unpack(unpacker, extent.segment)?),
        };
        if self.segments.len() >= SEGMENTS {
            self.segments.pop_front();
        }
        self.segments.push_back(segment);
        let (_, bytes) = self.segments.back().expect("put there just now");
        bytes.get(from..to).ok_or(Failed::Damaged("a part of it is not there"))
    }

    fn unpack(&self, unpacker: &mut Unpacker, segment: u32) -> Result<Vec<u8>, Failed> {
        const CHUNKS: &str = "SELECT length, bytes FROM chunk WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
        let (first, last) = segment::chunk_ids(segment);
        let mut query = self.db.prepare_cached(CHUNKS)?;
        let mut rows = query.query(params![first, last])?;
        let mut bytes = Vec::new();
        unpacker.restart();
        while let Some(row) = rows.next()? {
            let length: i64 = row.get(0)?;
            let chunk = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            if !unpacker.unpack(chunk, usize::try_from(length).unwrap_or(usize::MAX), &mut bytes) {
                return Err(Failed::Damaged("a part of it cannot be unpacked"));
            }
        }
        Ok(bytes)
    }

    /// A body of a file of schema version 1.
    fn unsplit(&self, id: ExchangeId, side: Side, body: &Body) -> Result<Option<Bytes>, Failed> {
        const GET: &str = "SELECT encoding, bytes FROM body WHERE exchange_id = ?1 AND side = ?2";
        let row: Option<(i64, Vec<u8>)> = self
            .db
            .prepare_cached(GET)?
            .query_row(params![Col(id), side as i64], |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()?;
        let Some((encoding, bytes)) = row else { return Ok(None) };
        let bytes = if encoding == 0 {
            bytes
        } else {
            zstd::stream::decode_all(&bytes[..]).map_err(|_| Failed::Damaged("it cannot be unpacked"))?
        };
        if body.truncated || BodyHash::of(&bytes) == body.sha256 {
            Ok(Some(bytes.into()))
        } else {
            Err(Failed::Damaged("its hash is another"))
        }
    }
}
