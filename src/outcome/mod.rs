//! stub
pub fn assess(_s: &crate::store::Store, _q: crate::model::Micros) -> Result<(), crate::store::StoreError> { Ok(()) }
