//! The reconcile loop: leases due points, observes, plans, journals, applies, reads back.
