//! How ids, times and lists stand in columns. Used as `Col(value)` to bind and `row.get::<_, Col<T>>(i)?.0` to read.

use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::{ClusterId, ExchangeId, Micros, NightId, TrajectoryId};

/// An id as its 16 bytes, or a time as its microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Col<T>(pub T);

macro_rules! blob_ids {
    ($($id:ty),+) => {$(
        impl ToSql for Col<$id> {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.0.as_bytes())))
            }
        }
        impl FromSql for Col<$id> {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                let bytes = value.as_blob()?;
                let bytes = bytes.try_into().map_err(|_| FromSqlError::InvalidBlobSize {
                    expected_size: 16,
                    blob_size: bytes.len(),
                })?;
                Ok(Self(<$id>::from_bytes(bytes)))
            }
        }
    )+};
}
blob_ids!(ExchangeId, TrajectoryId, ClusterId, NightId);

impl ToSql for Col<Micros> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.0.into())
    }
}

impl FromSql for Col<Micros> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(Self(Micros(value.as_i64()?)))
    }
}

/// A value as JSON text.
#[derive(Clone, Debug)]
pub(super) struct Json<T>(pub T);

impl<T: Serialize> ToSql for Json<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let text =
            serde_json::to_string(&self.0).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
        Ok(text.into())
    }
}

impl<T: DeserializeOwned> FromSql for Json<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?).map(Self).map_err(FromSqlError::other)
    }
}

/// A name of one of the model's enums.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<T>(pub T);

impl<T: std::str::FromStr> FromSql for Named<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let text = value.as_str()?;
        text.parse().map(Self).map_err(|_| FromSqlError::other(UnknownName(text.to_owned())))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("unknown name {0:?}")]
struct UnknownName(String);

/// A vector as little-endian f32.
pub(super) fn vector_to_bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The vector of little-endian f32 bytes; a torn tail is left out.
pub(super) fn vector_from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}
