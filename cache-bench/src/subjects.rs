//! The caches, each as its own documentation configures it.

mod amalgam_cache;
mod foyer_cache;
mod moka_cache;
mod multi_tier_cache;
mod ours;

pub(crate) use self::{
    amalgam_cache::Amalgam, foyer_cache::Foyer, moka_cache::Moka, multi_tier_cache::MultiTier, ours::Ours,
};

/// What is compared, for the legend.
pub(crate) const VERSIONS: &str = "\
ours: `get_or_load`, stretto over a map. moka 0.12: `try_get_with`. foyer 0.22: `get_or_fetch`, in memory. \
multi-tier-cache 0.6: `get_or_compute_with`, moka over a map. amalgam-cache 0.4: `get_or_set`, memory over a map, with a \
backplane.";
