"""Looking into a scene in a browser: `view_run` of a run, `LiveView` of a session that runs."""
