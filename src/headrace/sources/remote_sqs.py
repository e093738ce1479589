"""A queue of SQS: messages come in tens and stay until they are deleted, whoever dies in between."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigError
from .events import Message
from .remote import Opening, Unreachable, missing

try:
    from botocore.config import Config
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        PartialCredentialsError,
        SSLError,
    )
except ImportError as error:
    raise missing("s3", "botocore") from error

from .remote_s3 import session

MOST = 10
"""Messages of one call; the service allows no more."""
WAIT = 1
"""Seconds. Without a wait not all of the service's servers are asked."""
_GRANT = "grant sqs:ReceiveMessage and sqs:DeleteMessage on the queue"


class Queue:
    """The queue at `url`, entered with the same credentials as the bucket (`events.Queue`)."""

    def __init__(self, opening: Opening, url: str) -> None:
        self.opening, self.url = opening, url
        self._client: Any = None

    @property
    def name(self) -> str:
        return self.url

    @property
    def client(self) -> Any:
        if self._client is None:
            self._client = self._connected()
        return self._client

    def receive(self) -> Sequence[Message]:
        with self._told():
            answer = self.client.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=MOST,
                WaitTimeSeconds=WAIT,
                AttributeNames=["ApproximateReceiveCount"],
            )
        return [
            Message(
                item["MessageId"],
                item.get("Body", ""),
                item["ReceiptHandle"],
                int(item.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
            )
            for item in answer.get("Messages", ())
        ]

    def delete(self, messages: Sequence[Message]) -> None:
        for first in range(0, len(messages), MOST):
            some = messages[first : first + MOST]
            entries = [{"Id": str(place), "ReceiptHandle": one.handle} for place, one in enumerate(some)]
            with self._told():
                self.client.delete_message_batch(QueueUrl=self.url, Entries=entries)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(BotoCoreError, OSError):
                client.close()

    def _connected(self) -> Any:
        access = self.opening.access
        found = urlsplit(self.url)
        named = re.match(r"sqs(?:-fips)?\.([a-z0-9-]+)\.", found.netloc)
        config = Config(
            connect_timeout=min(access.timeout, 10),
            read_timeout=max(access.timeout, 2 * WAIT),
            retries={"mode": "standard", "total_max_attempts": 4},
        )
        return session().create_client(
            "sqs",
            region_name=named[1] if named else access.region or "us-east-1",
            endpoint_url=f"{found.scheme}://{found.netloc}",
            aws_access_key_id=access.access_key_id,
            aws_secret_access_key=access.secret_access_key,
            aws_session_token=access.session_token,
            verify=str(self.opening.file(access.ca)) if access.ca else None,
            config=config,
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the library, in our words."""
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ConfigError(
                f"{self.url}: there are no credentials",
                hint="set `access: {access_key_id: ${…}, secret_access_key: ${…}}`",
            ) from error
        except SSLError as error:
            raise ConfigError(
                f"{self.url}: its certificate cannot be verified", hint="set `access: {ca: ca.pem}`"
            ) from error
        except ClientError as error:
            raise self._of(error) from error
        except (BotoCoreError, OSError) as error:
            raise Unreachable(f"{self.url} does not answer: {error}", hint="is it up?") from error

    def _of(self, error: ClientError) -> ConfigError | Unreachable:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if "NonExistentQueue" in code or "QueueDoesNotExist" in code or status == 404:
            return ConfigError(f"{self.url}: there is no such queue", hint="correct `events`")
        if 400 <= status < 500 and status != 429 and "Throttl" not in code:
            return ConfigError(
                f"{self.url}: access is denied ({code})", hint=f"check the credentials; {_GRANT}"
            )
        return Unreachable(f"{self.url} answers {status} {code}", hint="it is tried again")
