"""The lab's demo: from building a base to serving experts, on a base that the product builds itself."""
