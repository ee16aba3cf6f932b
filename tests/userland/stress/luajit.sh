# SPDX-License-Identifier: GPL-2.0-or-later
# LuaJIT: its compiled code computes what its interpreter computes, at every setting of its optimiser.
cat >work.lua <<'END'
local function add(h, x) return bit.bxor(bit.rol(h, 5), bit.tobit(x)) end
local h = 0
for i = 1, 3000000 do h = add(h, i * 7 + h % 13) end
local t = {}
for i = 1, 200000 do t[i] = (i * 7919) % 100003 + i / 3 end
table.sort(t)
for i = 1, #t, 7 do h = add(h, t[i] * 1000 % 2147483647) end
local s = {}
for i = 1, 30000 do s[#s + 1] = string.format("%d:%.17g:%s", i, math.sin(i) / i, ("x"):rep(i % 17)) end
s = table.concat(s, ",")
for word in s:gmatch("[^,]+") do h = add(h, #word + word:byte(-1)) end
local ffi = require("ffi")
local a = ffi.new("uint64_t[?]", 4096)
for round = 1, 100 do
    for i = 0, 4095 do a[i] = a[(i * 17 + round) % 4096] * 6364136223846793005ULL + 1442695040888963407ULL + i end
end
local x = 0ULL
for i = 0, 4095 do x = x * 31ULL + a[i] end
local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end
local co = coroutine.wrap(function() for i = 1, 100000 do coroutine.yield(i * i) end end)
local sum = 0
for i = 1, 100000 do sum = sum + co() end
local f = 0
for i = 1, 1000000 do f = f + math.sqrt(i) * math.exp(-i / 1e6) / (1 + math.abs(math.cos(i))) end
print("same lua:", h, tostring(x), fib(27), sum, string.format("%.17g", f))
END
for options in -joff -jon -O0 -O1 -O2 -O3 -Ohotloop=2,hotexit=2 -Omaxtrace=50,maxmcode=64; do
    for i in 1 2 3; do
        luajit $options work.lua
    done
done
echo good
