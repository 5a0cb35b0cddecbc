"""The registered model as an MLflow pyfunc: 46 feature columns in, sales of open days out.

MLflow stores this script as it is and runs it when a version is loaded ("models from code"), with
the version's own copy of the package on the path; nothing is pickled. Hence the call at the end.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from rossmann.models.ensemble.ensemble import Ensemble
from rossmann.schema import FEATURES, FloatArray


class RossmannModel(PythonModel):
    """The blend alone, without the service's opening days, schedules and warnings."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the version's files; raises ``CorruptModelError`` where a digest differs."""
        self._ensemble = Ensemble.load(Path(context.artifacts["ensemble"]))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> FloatArray:
        """Sales (n,) of n rows with the 46 features as columns, in any order."""
        columns = model_input[list(FEATURES)].to_numpy(dtype=np.float64)
        # The members learn from single precision: the same bits as in the service.
        return self._ensemble.predict(np.ascontiguousarray(columns, dtype=np.float32))


set_model(RossmannModel())
