"""Rights on an expert, as permissions of MLflow's own users (``mlflow server --app-name basic-auth``).

MLflow has permissions on registered models and experiments. An expert is a registered model, its log is another one
beside it, and files are uploaded to the experiments of runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from zfleet.errors import RegistryError
from zfleet_registry import catalog
from zfleet_registry.address import SERVERS, kind_of
from zfleet_registry.connect import Connection
from zfleet_registry.log.store import log_model
from zfleet_registry.runs import REGISTRATIONS

Grant = Literal["write", "promote", "manage"]

_PERMISSIONS: Mapping[Grant, tuple[str, str | None]] = {
    "write": ("EDIT", None),
    "promote": ("EDIT", "EDIT"),
    "manage": ("MANAGE", "MANAGE"),
}
"""{right: the permission on the expert, and on its log}."""
_PATH = "/api/3.0/mlflow/users/permissions"


class Access:
    """The rights of users on one expert.

    Args:
        connection: A tracking server.
        expert: The expert's registered model: ``lab-1a2b3c4d.math``.

    Raises:
        RegistryError: The registry is no tracking server, and has no users.
    """

    def __init__(self, connection: Connection, expert: str) -> None:
        if kind_of(connection.address) not in SERVERS:
            raise RegistryError(
                f"registry {connection.address} has no users: whoever may write its files or its database may do all",
                "rights are those of a tracking server: start one with zfleet registry up",
            )
        self.expert = expert
        self._connection = connection

    def grant(self, user: str, right: Grant) -> None:
        """Give a user a right, in place of the one that they had.

        Args:
            user: A user of the server.
            right: ``write`` registers versions, ``promote`` also moves aliases, ``manage`` also deletes and grants.

        Raises:
            AccessDenied: The present user may not grant this.
            RegistryError: The server has no users, no such user, or no such expert.
        """
        on_expert, on_log = _PERMISSIONS[right]
        with self._connection.answering(f"grant {user} to {right} {self.expert}", "manage"):
            if catalog.find_model(self._connection.client, self.expert) is None:
                raise RegistryError(f"there is no expert {self.expert}", "`zfleet experts list` prints all")
            # First what the present user may lack a right to, so that nothing is granted if it is refused.
            for experiment in self._experiments():
                self._ask("grant", user, "experiment", experiment, "EDIT")
            for model, permission in ((log_model(self.expert), on_log), (self.expert, on_expert)):
                # MLflow does not replace what was granted before.
                self._ask("revoke", user, "registered_model", model)
                if permission is not None:
                    self._ask("grant", user, "registered_model", model, permission)

    def revoke(self, user: str) -> None:
        """Take from a user every right that was granted to them. All users may go on reading.

        Raises:
            AccessDenied: The present user may not.
            RegistryError: The server has no users, or no such user.
        """
        with self._connection.answering(f"revoke the rights of {user} on {self.expert}", "manage"):
            for model in (self.expert, log_model(self.expert)):
                self._ask("revoke", user, "registered_model", model)

    def _experiments(self) -> list[str]:
        """Return the ids of the experiments to which the expert's files are uploaded."""
        client = self._connection.client
        versions = catalog.all_versions(client, f"name = '{self.expert}'")
        runs = {version.run_id for version in versions if version.run_id}
        found = {str(client.get_run(run).info.experiment_id) for run in runs}
        if (registrations := client.get_experiment_by_name(REGISTRATIONS)) is not None:
            found.add(str(registrations.experiment_id))
        return sorted(found)

    def _ask(self, what: str, user: str, kind: str, identifier: str, permission: str = "") -> None:
        """Grant a permission, or revoke one; nothing happens if it was granted, or revoked, before."""
        from mlflow.exceptions import MlflowException
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        path = f"{_PATH}/{what}"
        body = {"username": user, "resource_type": kind, "resource_id": identifier}
        if permission:
            body["permission"] = permission
        credentials = get_default_host_creds(self._connection.client.tracking_uri)  # type: ignore[no-untyped-call]
        answer = http_request(  # type: ignore[no-untyped-call]
            credentials, path, "POST", json=body, raise_on_status=False
        )
        try:
            verify_rest_response(answer, path)
        except MlflowException as error:
            if error.error_code == "ENDPOINT_NOT_FOUND":
                raise RegistryError(
                    f"registry {self._connection.address} has no users",
                    "start it with zfleet registry up, or with mlflow server --app-name basic-auth",
                ) from None
            if "Permission for user" not in str(error):
                raise
