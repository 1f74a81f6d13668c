"""The HTTP service (extra ``server``): Starlette and uvicorn, imported when an application is made."""
