"""Load generation: schedules, what carries the calls, figures, plots. `penstock bench` is its
face."""
