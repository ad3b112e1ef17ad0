"""One module a stage: `run(experiment, out_dir, tracker) -> Result`, reached by `stage._target_`."""
