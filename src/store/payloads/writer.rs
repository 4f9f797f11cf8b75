use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::Side;
use super::index::{self, Index, Name, Names};
use super::recipe::{Base, Extent, Recipe};
use super::segment::{self, Chunk, Open, Packer};
use crate::model::{Body, Exchange, ExchangeId};
use crate::store::columns::Col;
use crate::store::{DataDir, StoreError, data_dir::identity, migrate, split};

/// Days kept open: one, and at midnight another.
const OPEN_DAYS: usize = 2;
/// Tenants whose segments are kept open, at most: each needs some 700 KB to pack.
const OPEN_TENANTS: usize = 4;
/// A shorter request is not cut.
const CUT_FROM: usize = 512;
/// A shorter piece is not looked for: its place would be as long as what packing leaves of it.
const PIECE_FROM: usize = 64;

/// Writes bodies; belongs to the recorder's thread.
pub(in crate::store) struct PayloadWriter {
    dir: DataDir,
    synchronous: &'static str,
    /// The one used last comes last.
    days: Vec<Day>,
}

struct Day {
    name: String,
    /// As [`identity`] tells it.
    file: u64,
    db: Connection,
    index: Index,
    tenants: Tenants,
}

impl PayloadWriter {
    pub fn new(dir: DataDir, synchronous: &'static str) -> Self {
        Self { dir, synchronous, days: Vec::new() }
    }

    /// Commits the bodies of exchanges into a day's file; those of an exchange that is there already stay as they are.
    pub fn put(&mut self, day: &str, exchanges: &[Exchange]) -> Result<(), StoreError> {
        let mut day = self.open(day)?;
        let path = self.dir.payload_db(&day.name);
        // When it fails, what is in memory is ahead of the file: then it is opened anew.
        day.put(exchanges).map_err(|failed| failed.of(&path))?;
        self.days.push(day);
        Ok(())
    }

    /// Closes the file of a day; what is written next opens it again.
    pub fn close(&mut self, day: &str) {
        self.days.retain(|open| open.name != day);
    }

    fn open(&mut self, name: &str) -> Result<Day, StoreError> {
        // First closed, for closing removes the files beside it by name. Of other days, too: retention may have deleted
        // them, and their space is free when nobody holds them open.
        self.days.retain(|day| identity(&self.dir.payload_db(&day.name)) == Some(day.file));
        if let Some(at) = self.days.iter().position(|day| day.name == name) {
            return Ok(self.days.remove(at));
        }
        if self.days.len() >= OPEN_DAYS {
            self.days.remove(0);
        }
        Day::open(name, &self.dir.payload_db(name), self.synchronous)
    }
}

impl Day {
    fn open(name: &str, path: &Path, synchronous: &str) -> Result<Self, StoreError> {
        let db = migrate::open(path, &migrate::PAYLOAD)?;
        let failed = StoreError::reading(path, "open payloads");
        db.pragma_update(None, "synchronous", synchronous).map_err(&failed)?;
        let mut index = Index::new();
        take_up(&db, &mut index).map_err(&failed)?;
        let file = identity(path).unwrap_or_default();
        Ok(Self { name: name.to_owned(), file, db, index, tenants: Tenants::default() })
    }

    fn put(&mut self, exchanges: &[Exchange]) -> Result<(), Failed> {
        const KNOWN: &str = "SELECT 1 FROM recipe WHERE exchange_id = ?1";
        const PUT: &str = "INSERT INTO recipe (exchange_id, request, response) VALUES (?1, ?2, ?3)";
        let Self { db, index, tenants, .. } = self;
        // Immediate: during a restart without a gap there are two writers.
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // A tenant's exchanges one after the other, so that each tenant's segment is opened once.
        let mut order: Vec<&Exchange> = exchanges.iter().collect();
        order.sort_by(|a, b| a.scope.tenant.cmp(&b.scope.tenant));
        {
            let mut known = tx.prepare_cached(KNOWN)?;
            let mut put = tx.prepare_cached(PUT)?;
            for exchange in order {
                if known.query_row([Col(exchange.id)], |_| Ok(())).optional()?.is_some() {
                    continue;
                }
                let mut store = Pen { tx: &tx, index, tenant: tenants.of(&exchange.scope.tenant, &tx)? };
                let request = store.body(exchange.id, Side::Request, &exchange.request_body)?;
                let response = match &exchange.response {
                    Some(response) => store.body(exchange.id, Side::Response, &response.body)?,
                    None => None,
                };
                put.execute(params![Col(exchange.id), request, response])?;
            }
        }
        for tenant in &mut tenants.0 {
            if let Some(open) = &mut tenant.open {
                append(&tx, open.pack()?)?;
            }
        }
        tx.commit()?;
        Ok(())
    }
}

/// The latest pieces in a file.
fn take_up(db: &Connection, index: &mut Index) -> rusqlite::Result<()> {
    let mut latest = db.prepare("SELECT id, pieces FROM chunk ORDER BY id DESC")?;
    let mut rows = latest.query([])?;
    while let Some(row) = rows.next()? {
        let Some(segment) = segment::segment_of(row.get(0)?) else { continue };
        if !index.take_up(segment, row.get_ref(1)?.as_blob()?) {
            break;
        }
    }
    Ok(())
}

/// Tenants that wrote lately, the last one last.
#[derive(Default)]
struct Tenants(Vec<Tenant>);

struct Tenant {
    name: String,
    names: Names,
    /// None before the first byte.
    open: Option<Open>,
    /// While no segment is open.
    packer: Option<Packer>,
}

impl Tenants {
    fn of(&mut self, name: &str, tx: &Transaction<'_>) -> Result<&mut Tenant, Failed> {
        match self.0.iter().position(|t| t.name == name) {
            Some(at) => self.0[at..].rotate_left(1),
            None => {
                let packer = if self.0.len() < OPEN_TENANTS {
                    Packer::new()?
                } else {
                    let mut last = self.0.remove(0);
                    if let Some(open) = &mut last.open {
                        append(tx, open.pack()?)?;
                    }
                    last.packer.or_else(|| last.open.map(Open::into_packer)).map_or_else(Packer::new, Ok)?
                };
                let names = Names::of_tenant(name);
                self.0.push(Tenant { name: name.to_owned(), names, open: None, packer: Some(packer) });
            }
        }
        Ok(self.0.last_mut().expect("put there just now"))
    }
}

/// Writes for one tenant in one transaction.
struct Pen<'a> {
    tx: &'a Transaction<'a>,
    index: &'a mut Index,
    tenant: &'a mut Tenant,
}

impl Pen<'_> {
    /// Stores a body and gives its recipe; none of an empty one.
    fn body(&mut self, exchange: ExchangeId, side: Side, body: &Body) -> Result<Option<Vec<u8>>, Failed> {
        let bytes = &body.bytes[..];
        if bytes.is_empty() {
            return Ok(None);
        }
        let whole = !body.truncated && body.length == bytes.len() as u64;
        let mut recipe = Recipe { check: (!whole).then(|| index::check(bytes)), ..Recipe::default() };
        if side == Side::Response || bytes.len() < CUT_FROM {
            self.uncut(exchange, side, body, whole, &mut recipe)?;
        } else {
            self.cut(exchange, bytes, &mut recipe)?;
        }
        Ok(Some(recipe.encode()))
    }

    /// A body that is found again as a whole or not at all. The message in an answer never comes back byte for byte: it
    /// is another JSON object in the next request.
    fn uncut(
        &mut self,
        exchange: ExchangeId,
        side: Side,
        body: &Body,
        whole: bool,
        recipe: &mut Recipe,
    ) -> Result<(), Failed> {
        let name = whole.then(|| self.tenant.names.whole(&body.sha256));
        if let Some(found) = name.and_then(|name| self.index.bodies.get(&name))
            && found.length == body.length
        {
            recipe.base = Some(found);
            return Ok(());
        }
        for part in body.bytes.chunks(split::MAX) {
            recipe.push(self.append(part)?);
        }
        if let Some(name) = name.filter(|_| body.bytes.len() >= PIECE_FROM) {
            self.index.bodies.insert(name, Base { exchange, side, length: body.length });
        }
        Ok(())
    }

    /// A request in pieces: the longest beginning that is known, then what pieces are known, then what is new.
    fn cut(&mut self, exchange: ExchangeId, bytes: &[u8], recipe: &mut Recipe) -> Result<(), Failed> {
        let cuts = split::cuts(bytes);
        let start = |at: usize| if at == 0 { 0 } else { cuts[at - 1].end };
        let mut pieces: Vec<Name> = Vec::with_capacity(cuts.len());
        let mut beginnings: Vec<Name> = Vec::with_capacity(cuts.len());
        for (at, cut) in cuts.iter().enumerate() {
            let name = self.tenant.names.piece(&bytes[start(at)..cut.end]);
            let before = beginnings.last().copied().unwrap_or_default();
            pieces.push(name);
            beginnings.push(self.tenant.names.beginning(before, name));
        }
        let known = (0..cuts.len()).rev().find_map(|at| {
            let base = self.index.bodies.get(&beginnings[at])?;
            (base.length == cuts[at].end as u64).then_some((at + 1, base))
        });
        recipe.base = known.map(|(_, base)| base);
        let known = known.map_or(0, |(count, _)| count);
        for at in known..cuts.len() {
            let extent = self.piece(pieces[at], &bytes[start(at)..cuts[at].end])?;
            recipe.push(extent);
        }
        let has_lists = cuts.iter().any(|cut| cut.list_ends);
        for at in known..cuts.len() {
            if cuts[at].list_ends || (!has_lists && at + 1 == cuts.len()) {
                let base = Base { exchange, side: Side::Request, length: cuts[at].end as u64 };
                self.index.bodies.insert(beginnings[at], base);
            }
        }
        Ok(())
    }

    /// Where a piece is; it is appended when it is not there yet.
    fn piece(&mut self, name: Name, bytes: &[u8]) -> Result<Extent, Failed> {
        if bytes.len() < PIECE_FROM {
            return self.append(bytes);
        }
        if let Some(found) = self.index.pieces.get(&name)
            && found.length as usize == bytes.len()
        {
            return Ok(found);
        }
        let extent = self.append(bytes)?;
        self.index.pieces.insert(name, extent);
        if let Some(open) = &mut self.tenant.open {
            open.list(name, extent);
        }
        Ok(extent)
    }

    /// Appends at most [`split::MAX`] bytes to the tenant's segment, or to a new one where they do not fit.
    fn append(&mut self, bytes: &[u8]) -> Result<Extent, Failed> {
        if let Some(mut full) = self.tenant.open.take_if(|open| open.room() < bytes.len()) {
            append(self.tx, full.pack()?)?;
            self.tenant.packer = Some(full.into_packer());
        }
        if self.tenant.open.is_none() {
            const BEGIN: &str = "INSERT INTO segment (tenant) VALUES (?1)";
            self.tx.prepare_cached(BEGIN)?.execute([&self.tenant.name])?;
            let id = u32::try_from(self.tx.last_insert_rowid())
                .map_err(|_| StoreError::Pack("a day has no more than 4,294,967,295 segments"))?;
            let packer = self.tenant.packer.take().map_or_else(Packer::new, Ok)?;
            self.tenant.open = Some(Open::new(id, packer));
        }
        Ok(self.tenant.open.as_mut().expect("made just above").append(bytes))
    }
}

fn append(tx: &Transaction<'_>, chunk: Option<Chunk>) -> rusqlite::Result<()> {
    const APPEND: &str = "INSERT INTO chunk (id, pieces, length, bytes) VALUES (?1, ?2, ?3, ?4)";
    let Some(chunk) = chunk else { return Ok(()) };
    tx.prepare_cached(APPEND)?
        .execute(params![chunk.id, chunk.list, chunk.length as i64, chunk.bytes])
        .map(drop)
}

/// What can go wrong in a transaction.
enum Failed {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl Failed {
    fn of(self, path: &Path) -> StoreError {
        match self {
            Self::Sql(source) => StoreError::reading(path, "write bodies")(source),
            Self::Store(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
