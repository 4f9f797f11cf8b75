use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::files::Stamp;
use crate::model::Micros;
use crate::onnx::llama::Architecture;
use crate::onnx::lora::Lora;

/// An adapter that is served.
#[derive(Debug)]
pub struct Adapter {
    pub lora: Arc<Lora>,
    /// Where it came from: a path, or a version's name.
    pub root: String,
    pub since: Micros,
    /// The files that it was read from; none: they cannot be told from later ones.
    pub files: Option<Stamp>,
}

/// What a model's name in a request stands for.
#[derive(Clone, Debug)]
pub enum Meaning {
    Base,
    Adapter(Arc<Adapter>),
}

/// A name cannot be given to an adapter.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("{0:?} is the base model's own name")]
    Base(String),
    #[error("{0:?} is no name: 1 to 200 characters without control characters")]
    Invalid(String),
    #[error("The lora adapter '{0}' has already been loaded.")]
    Taken(String),
    #[error("the adapter does not fit the model: {0}")]
    Shape(String),
}

/// Which name means which model: the handle with which adapters are added, replaced and removed while requests run.
///
/// Cheap to clone. The table is replaced whole: a request looks once, and keeps what it found until it ends.
#[derive(Clone)]
pub struct Names {
    fixed: Arc<Fixed>,
    others: Arc<ArcSwap<BTreeMap<String, Meaning>>>,
}

struct Fixed {
    /// Names of the base model; the first is what adapters call their parent.
    base: Vec<String>,
    /// What the base model is: a path or a name.
    root: String,
    since: Micros,
    /// What adapters have to fit; none: they are taken as they are.
    architecture: Option<Architecture>,
}

impl Names {
    /// `base`: at least one.
    pub(super) fn new(base: Vec<String>, root: String, architecture: Option<Architecture>) -> Self {
        let fixed = Fixed { base, root, since: Micros::now(), architecture };
        Self { fixed: Arc::new(fixed), others: Arc::default() }
    }

    #[must_use]
    pub fn base(&self) -> &[String] {
        &self.fixed.base
    }

    #[must_use]
    pub fn root(&self) -> &str {
        &self.fixed.root
    }

    #[must_use]
    pub fn since(&self) -> Micros {
        self.fixed.since
    }

    /// What a name stands for now.
    #[must_use]
    pub fn meaning(&self, name: &str) -> Option<Meaning> {
        if self.fixed.base.iter().any(|base| base == name) {
            return Some(Meaning::Base);
        }
        self.others.load().get(name).cloned()
    }

    /// What else has a name. An adapter that has several is there as often, and is one `Arc`.
    #[must_use]
    pub fn others(&self) -> Arc<BTreeMap<String, Meaning>> {
        self.others.load_full()
    }

    /// Serves an adapter under a name, in place of the one that had it. Requests under way keep theirs.
    ///
    /// # Errors
    /// When the name is the base model's or unusable, or the adapter does not fit the model.
    pub fn put(&self, name: &str, adapter: Arc<Adapter>) -> Result<(), NameError> {
        self.fits(&adapter.lora)?;
        self.point(name, Meaning::Adapter(adapter))
    }

    /// Lets a name stand for the base model, until it is given to an adapter: an alias for which nothing was learned yet,
    /// or was taken back.
    ///
    /// # Errors
    /// When the name is the base model's own or unusable.
    pub fn put_base(&self, name: &str) -> Result<(), NameError> {
        self.point(name, Meaning::Base)
    }

    fn point(&self, name: &str, meaning: Meaning) -> Result<(), NameError> {
        self.is_free(name)?;
        self.others.rcu(|table| {
            let mut table = BTreeMap::clone(table);
            table.insert(name.to_owned(), meaning.clone());
            table
        });
        Ok(())
    }

    /// As [`put`](Self::put), where nothing has the name.
    ///
    /// # Errors
    /// As [`put`](Self::put), or when the name is taken.
    pub fn add(&self, name: &str, adapter: Arc<Adapter>) -> Result<(), NameError> {
        self.is_free(name)?;
        self.fits(&adapter.lora)?;
        let before = self.others.rcu(|table| {
            let mut table = BTreeMap::clone(table);
            table.entry(name.to_owned()).or_insert_with(|| Meaning::Adapter(adapter.clone()));
            table
        });
        if before.contains_key(name) { Err(NameError::Taken(name.to_owned())) } else { Ok(()) }
    }

    /// Takes a name away: new requests do not find it. False when nothing had it.
    pub fn remove(&self, name: &str) -> bool {
        let before = self.others.rcu(|table| {
            let mut table = BTreeMap::clone(table);
            table.remove(name);
            table
        });
        before.contains_key(name)
    }

    fn is_free(&self, name: &str) -> Result<(), NameError> {
        if self.fixed.base.iter().any(|base| base == name) {
            return Err(NameError::Base(name.to_owned()));
        }
        if name.is_empty() || name.len() > 200 || name.chars().any(char::is_control) {
            return Err(NameError::Invalid(name.chars().take(200).collect()));
        }
        Ok(())
    }

    fn fits(&self, lora: &Lora) -> Result<(), NameError> {
        let Some(model) = &self.fixed.architecture else { return Ok(()) };
        if lora.layers.len() != model.layers {
            let reason = format!("it has {} layers, the model {}", lora.layers.len(), model.layers);
            return Err(NameError::Shape(reason));
        }
        let expected = lora.shape.len(model);
        if let Some(at) = lora.layers.iter().position(|layer| layer.len() != expected) {
            let given = lora.layers[at].len();
            return Err(NameError::Shape(format!("layer {at} has {given} numbers, expected {expected}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::lora::{LoraShape, Projection};

    fn adapter(root: &str) -> Arc<Adapter> {
        let lora = Lora { shape: LoraShape::new(1, 1.0, &[Projection::Query]), layers: vec![] };
        Arc::new(Adapter { lora: Arc::new(lora), root: root.to_owned(), since: Micros::now(), files: None })
    }

    fn root_of(names: &Names, name: &str) -> Option<String> {
        match names.meaning(name)? {
            Meaning::Base => Some("base".to_owned()),
            Meaning::Adapter(adapter) => Some(adapter.root.clone()),
        }
    }

    #[test]
    fn a_name_means_one_thing_at_a_time_and_the_bases_are_its_own() {
        let names = Names::new(vec!["base".into(), "default".into()], "/m".into(), None);
        assert_eq!(root_of(&names, "default").as_deref(), Some("base"));
        assert_eq!(root_of(&names, "a"), None);
        names.put("a", adapter("1")).unwrap();
        assert_eq!(names.add("a", adapter("2")), Err(NameError::Taken("a".into())));
        assert_eq!(root_of(&names, "a").as_deref(), Some("1"));
        names.put("a", adapter("2")).unwrap();
        assert_eq!(root_of(&names, "a").as_deref(), Some("2"));
        assert_eq!(names.put("default", adapter("3")), Err(NameError::Base("default".into())));
        names.put_base("a").unwrap();
        assert_eq!(root_of(&names, "a").as_deref(), Some("base"));
        assert!(names.put("", adapter("3")).is_err() && names.put("a\nb", adapter("3")).is_err());
        assert!(names.remove("a") && !names.remove("a"));
        assert_eq!(root_of(&names, "a"), None);
    }

    #[test]
    fn what_was_found_stays_when_the_name_moves_on() {
        let names = Names::new(vec!["base".into()], "/m".into(), None);
        names.put("a", adapter("1")).unwrap();
        let Some(Meaning::Adapter(found)) = names.meaning("a") else { panic!("it is there") };
        names.put("a", adapter("2")).unwrap();
        names.remove("a");
        assert_eq!(found.root, "1");
    }
}
