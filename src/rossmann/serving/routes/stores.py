"""Routes about stores: attributes, history and schedule."""

from fastapi import APIRouter, Depends

from rossmann.serving.access.access_control import AccessControl
from rossmann.serving.routes.dependencies import (
    DayCount,
    FromDay,
    RequiredPermission,
    StoreNumber,
    UntilDay,
    reject_unknown_query_params,
)
from rossmann.serving.runtime.store_catalog import StoreCatalogCache
from rossmann.serving.schemas.stores import StoreHistory, StorePlan, StoreSummary


def store_router(catalogs: StoreCatalogCache, access_control: AccessControl) -> APIRouter:
    """``/stores`` and what is below it."""
    dependencies = [
        Depends(RequiredPermission(access_control, access_control.stores_permission)),
        Depends(reject_unknown_query_params),
    ]
    router = APIRouter(prefix="/stores", tags=["stores"], dependencies=dependencies)

    @router.get("", summary="Every store, with what it sold lately")
    def stores() -> list[StoreSummary]:
        return catalogs.get().list()

    @router.get("/{store}", summary="One store")
    def store(store: StoreNumber) -> StoreSummary:
        return catalogs.get().get(store)

    @router.get("/{store}/history", summary="A store's past days")
    def history(store: StoreNumber, days: DayCount = 90, until: UntilDay = None) -> StoreHistory:
        return catalogs.get().history(store, days, until)

    @router.get("/{store}/plan", summary="A store's plan: openings, promotions, holidays")
    def plan(store: StoreNumber, days: DayCount = 48, start: FromDay = None) -> StorePlan:
        return catalogs.get().plan(store, start, days)

    return router
