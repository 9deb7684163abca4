"""`az://`: ranged reads by obstore, everything else by signed REST requests."""

from typing import TYPE_CHECKING

from mountd.config import Settings
from mountd.config.source import Source
from mountd.errors import UsageError
from mountd.remotes.azure_credentials import AzureAccount, azure_account
from mountd.remotes.azure_rest import AzureRest
from mountd.remotes.azure_write import CAPABILITIES
from mountd.remotes.base import RemoteStore
from mountd.remotes.buckets import BucketsStore
from mountd.remotes.object_store import ObjectStore
from mountd.remotes.obstore_reads import ObstoreReads, client_options

if TYPE_CHECKING:
    from obstore.store import AzureStore


def open_azure(source: Source, settings: Settings, page_size: int | None = None) -> RemoteStore:
    """The store of `az://container/prefix`, or of all containers for a bare `az://`.

    No request is made. The account and the right to it: see `azure_credentials`.
    """
    account = azure_account(settings)
    timeout_s = settings.request_timeout_s

    def open_container(container: str, prefix: str = "") -> RemoteStore:
        rest = AzureRest(account, container, timeout_s)
        # The SAS is in the URL, and obstore names that to whoever it is redirected to.
        obstore = _obstore(account, container, timeout_s)
        leaks = bool(account.sas) and not account.is_azures
        reads = ObstoreReads(obstore, rest, timeout_s, is_plain=lambda: leaks)
        return ObjectStore(rest, reads, prefix, page_size)

    if source.authority:
        return open_container(source.authority, source.prefix)
    return BucketsStore(AzureRest(account, "", timeout_s), open_container, CAPABILITIES)


def _obstore(account: AzureAccount, container: str, timeout_s: float) -> "AzureStore":
    try:
        from obstore.store import AzureStore
    except ImportError as error:
        raise UsageError("az:// needs obstore: pip install obstore") from error
    # The provider says it all, because obstore fills gaps from AZURE_* by rules of its own.
    return AzureStore(
        container,
        config={
            "account_name": account.name,
            "endpoint": account.endpoint,
            "skip_signature": account.is_anonymous,
        },
        client_options=client_options(
            timeout_s, account.endpoint.startswith("http://"), account.tls
        ),
        retry_config={"max_retries": 0},
        credential_provider=None if account.is_anonymous else account.for_obstore,
    )
