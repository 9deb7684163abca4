"""What a start could not understand of the cache folder, for the status: it may be data that was
never sent."""

from pathlib import Path
from typing import Final

import trio

from mountd.cache_folder import quarantined_in

_LOOK_EVERY_S: Final = 30.0
_MOST_NAMES: Final = 100


class SetAside:
    """Of one cache folder. `names`: paths below its quarantine, as they were a while ago at most;
    whoever deals with them removes them there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.names = self._found()

    async def keep(self, every_s: float = _LOOK_EVERY_S) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(every_s)
            self.names = await trio.to_thread.run_sync(self._found, abandon_on_cancel=True)

    def _found(self) -> list[str]:
        try:
            return list(quarantined_in(self._folder)[:_MOST_NAMES])
        except OSError as error:
            return [f"? ({error})"]
