"""Names, bounds and references that several parts of the API share."""

from typing import Annotated

from pydantic import Field

from pagoda.api.schema import ApiModel

Text = Annotated[str, Field(max_length=1024)]
Name = Annotated[str, Field(max_length=253)]
ObjectName = Annotated[str, Field(max_length=253, pattern="^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Quantity = int | str


class LocalReference(ApiModel):
    """An object of the same namespace, by name."""

    name: Name = Field(description="Name of the object.")
