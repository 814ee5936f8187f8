"""The layers: `QAct`; `NormedQAct` has norms, `LazyQAct` any width, `SyncQAct` many processes."""
