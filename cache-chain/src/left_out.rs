//! Lets the model of flights leave out a guard, to see that the model notices.

/// Whether the model has left out this guard. Outside of the model, no guard is left out.
#[cfg(all(test, shuttle))]
macro_rules! left_out {
    ($fault:ident) => {
        $crate::flight::model::makes($crate::flight::model::Fault::$fault)
    };
}
#[cfg(not(all(test, shuttle)))]
macro_rules! left_out {
    ($fault:ident) => {
        false
    };
}
pub(crate) use left_out;
